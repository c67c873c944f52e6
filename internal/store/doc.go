// Package store keeps lines until every destination has them: in memory that outlives
// the process, and then on disk.
//
//	s, err := store.Open(places, destinations, log)
//	go s.Run(ctx)                     // all that may wait for the disk
//	s.Put(lines, n, time.Now())       // one copy, however many destinations there are
//	outlet.New(…, s.Cursor("main"))   // the place of a destination: an outlet.Source
//	s.CloseInput(); …; s.Close()      // what is left is there at the next start
//
// Lines that wait for a name have a log of their own (PutHeld, TakeHeld, FinishHeld), and
// keep no others waiting.
//
// # The log
//
//	     second tier: files on disk          first tier: files on tmpfs
//	┌─────────┬─────────┬─────────┐ border ┌─────────┬─────────┬─────────┐ tail
//	│ segment │ segment │ segment │        │ segment │ segment │ open …  │ ← put
//	└─────────┴─────────┴─────────┘        └─────────┴─────────┴─────────┘
//	  ↑ evict                        ← Run     needed by a cursor, or gone
//
// A place in the log is how many bytes of records, and how many lines, came before it.
// Under pressure the oldest segment moves to disk, as it is. At the bound of a tier what
// is kept only to be sent again goes; and then the oldest segment, whose lines are counted
// for each destination that has not got them.
//
// # Files
//
// All integers are little endian, all sums are CRC-32C. A segment:
//
//	+-------------+------------+---------+-------+--------+----------+---------+--------+---+---
//	| "ppstore\n" | version: 4 | kind: 4 | id: 8 | at: 8  | line: 8  | born: 8 | sum: 4 | 0 | records
//	+-------------+------------+---------+-------+--------+----------+---------+--------+---+---
//	               of the      named or   of the   place of its        Unix ms   of the 48
//	               format      held       store    first record                  before it
//
// A record; its sum goes on from the store's id and from its place, so that it is sound
// nowhere else:
//
//	+-----------+----------+--------+--------+---------
//	| length: 4 | lines: 4 | age: 4 | sum: 4 | lines …    age: ms after the segment's born
//	+-----------+----------+--------+--------+---------
//
// The state, written to two files in turns ("state-0", "state-1"), the newest of which
// counts; behind its header are, as varints, the tails, the held spans, and for each
// destination its name, the spans that it has not got, and those that it is to be sent
// again:
//
//	+-------------+------------+---------+---------------+-------+--------+---------+------
//	| "ppstate\n" | version: 4 | size: 4 | generation: 8 | id: 8 | sum: 4 | sum: 4  | body
//	+-------------+------------+---------+---------------+-------+--------+---------+------
//	                                                              header's  body's
//
// In the state directory: store/ with the second tier (named-…, held-…), its state, and
// "memory", which says where the first tier is. There, in a directory of a name that
// nobody can know before: the first tier, its state, and "owner", which says whose it is
// and is locked while it lives.
//
// In reading order: store.go (Put, evict, destinations), cursor.go and session.go (a
// destination), held.go (lines without a name), log.go, place.go and segment.go (the log),
// run.go (the disk), state.go and open.go (what the last process left), old.go (what an
// earlier version left), files.go.
//
// # Not promised
//
// What is in memory ends with the machine, and what went to disk in the second before it,
// too. Where there is no room on tmpfs, lines that wait end with the process, and that is
// said. Behind damage, the rest of a segment is lost. What was put while the process was
// being killed may be there or not. A state that is older than the segments, by a power
// failure or a full disk, makes lines come again. Two processes must not have one state
// directory: the caller locks.
package store
