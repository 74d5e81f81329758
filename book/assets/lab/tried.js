// What a reader's choice starts may fail, e.g. where a file cannot be loaded: the section says so, and can go on.

/** Wait for `doing`; the message of an error stands in `said`, an element of the section `root`. */
export async function tried(root, said, doing) {
  try {
    await doing();
  } catch (error) {
    said.textContent = error.message;
    root.setAttribute("aria-busy", "false");
  }
}
