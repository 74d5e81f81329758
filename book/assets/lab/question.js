// A question as the model's tokens. Each word is one token of the model's vocabulary.

import { unmarked } from "./state.js";

const OPTIONS = /([\p{L}\p{N}]+) or (?:the )?([\p{L}\p{N}]+)/u;

/**
 * {ids, tokens, options, option_ids} of a question. compose.json has the `frame`, the ids before and after every
 * question, and the `spelling` of words as tokens. The options are the words before and after its "or".
 *
 * It throws what the reader can mend: unknown words, and a question that does not name two options.
 */
export function asked(question, vocabulary, { frame: [before, after], spelling }) {
  const text = question.trim().toLowerCase();
  const words = spelled(text, spelling);
  const unknown = [...new Set(words.filter((word) => !vocabulary.includes(word)).map(unmarked))];
  if (unknown.length) throw new Error(`The model knows no ${list(unknown, "or")}. Its vocabulary is below.`);
  const options = OPTIONS.exec(text)?.slice(1);
  if (!options || options[0] === options[1]) {
    throw new Error("Name two different options with “or”, as in “Is this bell red or blue?”.");
  }
  const ids = [...before, ...words.map((word) => vocabulary.indexOf(word)), ...after];
  const tokens = ids.map((id) => vocabulary[id]);
  return { ids, tokens, options, option_ids: options.map((word) => idOf(word, vocabulary, spelling)) };
}

/** The id of a word within a question or as an answer. */
export function idOf(word, vocabulary, { mark }) {
  return vocabulary.indexOf(mark + word);
}

/** The words that a question may have: those of the vocabulary without marks, letters and parts of words. */
export function known(vocabulary, { mark }) {
  return vocabulary.filter((word) => word.startsWith(mark)).map(unmarked).filter((word) => /^\p{Ll}{2,}$/u.test(word));
}

/** A text's words and marks as tokens: a space becomes the `mark`, and the first letter a `capital` if it is one. */
function spelled(text, { mark, capital }) {
  const tokens = text.match(/\s*[\p{L}\p{N}]+|[^\s\p{L}\p{N}]/gu) ?? [];
  const words = tokens.map((token) => token.replace(/^\s+/, mark));
  return words.map((word, i) => (capital && i === 0 ? word[0].toUpperCase() + word.slice(1) : word));
}

/** Words one after the other, as “a”, “b” or “c”. */
function list(words, joint) {
  const quoted = words.map((word) => `“${word}”`);
  return [quoted.slice(0, -1).join(", "), quoted.at(-1)].filter(Boolean).join(` ${joint} `);
}
