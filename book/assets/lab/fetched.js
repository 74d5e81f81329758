// What lies at an address, or an error that says so.

export async function fetched(url) {
  const response = await fetch(url);
  if (!response.ok) throw new Error(`${url} cannot be loaded (${response.status}).`);
  return response;
}

export async function fetchedBytes(url) {
  return new Uint8Array(await (await fetched(url)).arrayBuffer());
}
