// This browser's Ed25519 key, by which hosts know it again. The key pair lives in IndexedDB;
// its private half is not extractable: the page can sign with it and nobody can read it.

const open = () =>
  new Promise((resolve, reject) => {
    const request = indexedDB.open("ravnest", 1);
    request.onupgradeneeded = () => request.result.createObjectStore("keys");
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });

const inStore = (db, mode, act) =>
  new Promise((resolve, reject) => {
    const transaction = db.transaction("keys", mode);
    const request = act(transaction.objectStore("keys"));
    transaction.oncomplete = () => resolve(request.result);
    transaction.onerror = transaction.onabort = () => reject(transaction.error);
  });

const hex = (buffer) => Array.from(new Uint8Array(buffer), (b) => b.toString(16).padStart(2, "0")).join("");

// identity returns the key of this browser for this page's host, which it makes if there is
// none: {key, sign}, or {key: "", why} where the browser cannot keep one.
export async function identity() {
  if (!globalThis.crypto?.subtle) return { key: "", why: "the page does not come over https" };
  let db;
  try {
    db = await open();
    let pair = await inStore(db, "readonly", (store) => store.get("me"));
    if (!pair) {
      const made = await crypto.subtle.generateKey("Ed25519", false, ["sign", "verify"]);
      // Another tab may have been faster: the first one stays.
      await inStore(db, "readwrite", (store) => store.add(made, "me")).catch(() => {});
      pair = await inStore(db, "readonly", (store) => store.get("me"));
    }
    const key = hex(await crypto.subtle.exportKey("raw", pair.publicKey));
    return { key, sign: (message) => crypto.subtle.sign("Ed25519", pair.privateKey, message) };
  } catch (err) {
    const old = err?.name === "NotSupportedError";
    return { key: "", why: old ? "this browser does not know Ed25519" : "this browser keeps nothing for this page" };
  } finally {
    db?.close();
  }
}
