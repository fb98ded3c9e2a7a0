// Lists the catalog and places orders. Each order has a key, so that sending it again is harmless.
const state = document.getElementById('state');

async function json(path, options) {
  const answer = await fetch(path, options);
  if (!answer.ok) throw new Error(`${path}: ${answer.status}`);
  return answer.json();
}

async function order(item) {
  const key = crypto.randomUUID();
  const placed = await json('/api/orders', {
    method: 'POST',
    headers: { 'content-type': 'application/json', 'idempotency-key': key },
    body: JSON.stringify({ item: item.id, count: 1 }),
  });
  state.textContent = `Ordered: ${item.name} (${placed.id})`;
  await orders();
}

async function orders() {
  const { orders: count, total_cents: cents } = await json('/api/orders');
  document.getElementById('orders').textContent = `${count} orders, ${(cents / 100).toFixed(2)} in all`;
}

async function items() {
  const list = document.getElementById('items');
  for (const item of (await json('/api/catalog/items')).items) {
    const row = document.createElement('li');
    const button = document.createElement('button');
    button.textContent = 'Order';
    button.addEventListener('click', () => order(item).catch((e) => { state.textContent = String(e); }));
    row.append(`${item.name} · ${(item.price_cents / 100).toFixed(2)}`, button);
    list.append(row);
  }
  state.textContent = `${list.children.length} things to buy`;
}

items().then(orders).catch((e) => { state.textContent = String(e); });
