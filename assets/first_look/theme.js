// Light or dark, as chosen in the app; without a choice the operating system's. Streamlit asks the browser which it is
// and listens for changes, so the answer is given here, and a switch needs no reload.
(() => {
  const KEY = 'encore-studio-theme';
  const ask = window.matchMedia.bind(window);
  const system = ask('(prefers-color-scheme: dark)');
  let chosen = null;
  try { chosen = localStorage.getItem(KEY); } catch { /* nothing can be kept: the choice lasts as long as the page */ }
  const isDark = () => (chosen === null ? system.matches : chosen === 'dark');
  const answers = [];

  const answer = (query, says) => {
    const listeners = new Set();
    const one = {
      media: query,
      onchange: null,
      get matches() { return says(); },
      addEventListener: (kind, listener) => { if (kind === 'change') listeners.add(listener); },
      removeEventListener: (kind, listener) => { listeners.delete(listener); },
      addListener: (listener) => { listeners.add(listener); },
      removeListener: (listener) => { listeners.delete(listener); },
      dispatchEvent: () => true,
      tell: () => {
        const event = { type: 'change', matches: says(), media: query };
        one.onchange?.(event);
        for (const listener of [...listeners]) (listener.handleEvent ?? listener).call(one, event);
      },
    };
    answers.push(one);
    return one;
  };

  const dark = answer('(prefers-color-scheme: dark)', isDark);
  const light = answer('(prefers-color-scheme: light)', () => !isDark());
  window.matchMedia = (query) => {
    const plain = String(query).replaceAll(' ', '').toLowerCase();
    if (plain === '(prefers-color-scheme:dark)') return dark;
    if (plain === '(prefers-color-scheme:light)') return light;
    return ask(query);
  };
  const tell = () => { for (const one of answers) one.tell(); };
  system.addEventListener('change', () => { if (chosen === null) tell(); });

  window.esTheme = {
    isDark,
    isChosen: () => chosen !== null,
    choose: (name) => {
      chosen = name;
      try { localStorage.setItem(KEY, name); } catch { /* see above */ }
      tell();
    },
  };
})();
