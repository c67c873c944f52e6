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
// A segment is a file of records, whose format internal/records draws. The state is
// written to two files in turns ("state-0", "state-1"), the newest of which counts. Behind a
// line that has the version of the format, the size and the CRC-32C of the rest, it is
// JSON: where the logs end, and which spans of them each destination has not got, or is to
// be sent again.
//
// In the state directory, store/ has the second tier (named-…, held-…), and its state.
// The first tier, and its state, is in a directory that internal/memdir finds.
//
// In reading order: store.go (Put, evict), log.go, segment.go, tiers.go and recent.go (the
// log), needs.go, cursor.go, session.go and destinations.go (a place in it for each
// destination), held.go (lines without a name), run.go (the disk), state.go and open.go
// (what the last process left; internal/predecessor, what an earlier version left), files.go.
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
