// Where the app is: beside this page, whose name is the last part of the address. Not told, Streamlit looks below each
// part of the address in turn, and the browser reports an error for every place where it is not.
window.__streamlit ??= { BACKEND_BASE_URL: new URL('.', location.href.split(/[?#]/)[0]).href };
