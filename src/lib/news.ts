/** What the processes of one server tell each other, each of what it has found out. Delivered within milliseconds. */
export interface News<T> {
  /** Tells the others. `news` is cloned. */
  tell(news: T): void;
  /** Calls `listener` with what others tell, until the returned function is called. */
  listen(listener: (news: T) => void): () => void;
}

/** Of a process that is alone. */
export const noNews: News<never> = { tell: () => {}, listen: () => () => {} };
