"""Pages that look at several runs at once: Compare, Norm growth, Contributions and Downstream.

page_frame   what such a page does: pick runs, draw them, write the address, follow them
view         what is shown, made once and handed to the parts
checkpoints  which checkpoints: the one of Compare, those of Norm growth
collapse_card  Compare: the line that the reader sets, and the edits until each run crosses it
score_table  Compare: every measure of every run at a checkpoint, and which is ahead by more than chance
seed_spread  Compare: the spread of runs that differ in their seed alone
run_charts   Compare: the runs side by side, a row per measure, and the norms layer by layer
costs        Compare: the runs' state, and what they took
files        Compare: downloads, and the link
norm_cards   Norm growth: over edits, and layer by layer
foretold_card  Contributions: which layers pay, foretold, beside what was measured
task_card    Downstream: the chart of tasks and perplexity
task_table   Downstream: before and after
task_data    Downstream: where the tasks come from
"""
