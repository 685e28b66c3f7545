// The first look (see dashboard/first_look.py) takes the theme that was chosen here before, and goes when the page is
// there: when its title stands and, where the first look has curves, the page's own have been drawn.
(() => {
  const look = document.getElementById('es-first');
  if (!look) return;
  if (window.esTheme?.isChosen()) look.classList.add(window.esTheme.isDark() ? 'es-dark' : 'es-light');
  try {
    for (const key of Object.keys(localStorage)) {
      if (!key.startsWith(`stActiveTheme-${location.pathname}-v`)) continue;
      const theme = JSON.parse(localStorage.getItem(key));
      if (theme === 'Light' || theme === 'Dark') look.classList.add(`es-${theme.toLowerCase()}`);
    }
  } catch { /* what cannot be read was not chosen */ }

  const main = '[data-testid=stMain]';
  const TROUBLE = '[role=dialog], [role=alertdialog], [data-testid=stException], [data-testid=stAlert], .es-error';
  const PATIENCE = 5000;  // ms for the curves once all else is there
  const SOON = 1500;  // ms for the rest of a page whose title stands
  const page = location.pathname;
  let given;
  const isThere = () => {
    if (location.pathname !== page || document.querySelector(TROUBLE)) return true;
    if (!document.querySelector(`${main} h1, ${main} .es-sentence`)) return false;
    const isOver = document.querySelector('[data-test-script-state=notRunning]');
    if (!look.querySelector('.es-still')) {
      // What comes piece by piece would push about what is already there.
      given ??= setTimeout(leave, SOON);
      return isOver && !document.querySelector('[data-testid=stSkeleton]');
    }
    if (document.querySelector('.es-figure .main-svg')) return true;
    if (!isOver) return false;
    given ??= setTimeout(leave, PATIENCE);
    return !document.querySelector('.st-key-card_curves');
  };
  const leave = () => { observer.disconnect(); look.remove(); };
  const observer = new MutationObserver(() => { if (isThere()) leave(); });
  observer.observe(document.body, { childList: true, subtree: true, attributeFilter: ['data-test-script-state', 'role'] });
  setTimeout(leave, 30000);  // whatever came instead of the page is to be seen
})();
