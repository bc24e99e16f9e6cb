// Package migration is the legal life of a move: which step may follow which,
// and the table of moves that run and that have ended.
//
// A move takes one scope from one node to another:
//
//	copying ──► quiescing ──► shipped ──► done
//	   └────────────┴────────────┴──────► aborted
//
// From quiescing to the end nobody may write the scope. Only a committed log
// entry moves a move; nothing here knows a clock. Moves and tables are values:
// a change returns a new one and leaves the old as it was.
package migration
