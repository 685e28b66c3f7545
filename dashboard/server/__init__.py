"""What a server needs for many visitors.

device_queue     the line for a device
limits           what one visitor may take
security         the headers of its answers
garbage          what the collector passes over
requester        whether who asks is at this machine
browser_cookie   the secret by which a browser is known again
"""
