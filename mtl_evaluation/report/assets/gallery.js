(() => {
  const viewer = document.createElement('dialog');
  viewer.className = 'viewer';
  viewer.innerHTML = `<header><span class="tabs"></span><span class="push"></span>
    <button data-go="-1" aria-label="previous frame">←</button><span class="place"></span>
    <button data-go="1" aria-label="next frame">→</button>
    <button data-close aria-label="close">✕</button></header>
    <div class="picture"><img alt=""></div><footer><span class="caption"></span>
    <span class="push"></span><span class="hint">← → frames · ↑ ↓ pictures of a frame · Esc</span>
    </footer>`;
  document.body.append(viewer);
  const part = name => viewer.querySelector(name);
  let shots = [], shot = 0, panel = 0;
  const pictures = () => [...shots[shot].querySelectorAll('img')];
  const show = () => {
    const all = pictures();
    const chosen = all[Math.min(panel, all.length - 1)];
    part('.picture img').src = chosen.src;
    part('.picture img').alt = chosen.alt;
    part('.caption').textContent = shots[shot].querySelector('h3').textContent;
    part('.place').textContent = `${shot + 1} / ${shots.length}`;
    part('.tabs').replaceChildren(...all.map((picture, i) => {
      const tab = document.createElement('button');
      tab.textContent = picture.alt;
      tab.setAttribute('aria-pressed', picture === chosen);
      tab.onclick = () => { panel = i; show(); };
      return tab;
    }).flatMap(tab => [tab, ' ']));
  };
  const go = by => { shot = (shot + by + shots.length) % shots.length; show(); };
  const turn = by => { const n = pictures().length; panel = (panel + by + n) % n; show(); };
  const open = picture => {
    const found = picture.closest('.example');
    shots = [...found.closest('.gallery').querySelectorAll('.example')];
    shot = shots.indexOf(found);
    panel = pictures().indexOf(picture);
    show();
    viewer.showModal();
  };
  document.addEventListener('click', event => {
    if (event.target.matches('.gallery img')) open(event.target);
  });
  document.addEventListener('keydown', event => {
    if (!viewer.open) {
      const opens = event.key === 'Enter' || event.key === ' ';
      if (opens && event.target.matches('.gallery img')) {
        event.preventDefault();
        open(event.target);
      }
      return;
    }
    const moves = { ArrowLeft: () => go(-1), ArrowRight: () => go(1),
                    ArrowUp: () => turn(-1), ArrowDown: () => turn(1) };
    if (moves[event.key]) { event.preventDefault(); moves[event.key](); }
  });
  viewer.addEventListener('click', event => {
    const button = event.target.closest('button');
    if (event.target.matches('.picture img')) turn(1);
    else if (event.target.matches('.picture') || button?.hasAttribute('data-close')) viewer.close();
    else if (button?.dataset.go) go(Number(button.dataset.go));
  });
})();
