// The chosen theme: the system's unless the person chose otherwise. `public/theme.js` applies it before the first paint.

export type Theme = "system" | "light" | "dark";

const KEY = "troupe.theme";

class ThemeChoice {
  current = $state<Theme>(read());

  choose(theme: Theme): void {
    this.current = theme;
    if (theme === "system") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = theme;
    try {
      if (theme === "system") localStorage.removeItem(KEY);
      else localStorage.setItem(KEY, theme);
    } catch {
      // storage is off: the choice lasts as long as the page
    }
  }
}

function read(): Theme {
  const applied = document.documentElement.dataset.theme;
  return applied === "light" || applied === "dark" ? applied : "system";
}

export const theme = new ThemeChoice();
