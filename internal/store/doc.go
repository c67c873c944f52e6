// Package store keeps lines until every destination has them: in memory that outlives
// the process, and then on disk.
//
//	s, err := store.Open(places, destinations, log)
//	go s.Run(ctx)                     // all that may wait for the disk
//	s.Put(lines, n, time.Now(), …)    // one copy, however many destinations there are
//	outlet.New(…, s.Cursor("main"))   // the place of a destination: an outlet.Source
//	s.CloseInput(); …; s.Close()      // what is left is there at the next start
//
// Lines that wait for a name have a log of their own (Held), and
// keep no other lines waiting.
//
// # The log
//
//	     second tier: files on disk          first tier: files on tmpfs
//	┌─────────┬─────────┬─────────┐ border ┌─────────┬─────────┬─────────┐ tail
//	│ segment │ segment │ segment │        │ segment │ segment │ open …  │ ← put
//	└─────────┴─────────┴─────────┘        └─────────┴─────────┴─────────┘
//	  ↑ evict                        ← Run     needed by a cursor, or gone
//
// A place in the log is the number of bytes of records, and of lines, before it. Under pressure,
// the oldest segment moves to disk as it is. When a tier is full, what is kept only in case it
// must be sent again goes first, and then the oldest segment, whose lines are counted as dropped
// for each destination that has not got them.
//
// # Files
//
// A segment is a file of records; internal/records draws their format. The state is written
// alternately to two files ("state-0", "state-1"), of which the newest counts. After a line
// with the version of the format, and the size and CRC-32C of the rest, it is JSON: where the
// logs end, and which spans of them each destination has not got, or is to be sent again.
//
// In the state directory, store/ has the second tier (named-…, held-…), and its state.
// The first tier, and its state, is in a directory that internal/memdir finds.
//
// # Parts
//
// In reading order:
//
//	tiers     the two logs and their files, but not who needs them (log.go, tiers.go, files.go)
//	needs     what one destination needs of the log; no files
//	Cursor    needs, a session and the books (cursor.go, session.go, destinations.go)
//	Held      what waits for a name
//	Store     ties these together: Put, evict, settle (store.go, recent.go, state.go)
//	spooler   what Run does: all that may wait for the disk
//	recovery  what Open does (open.go)
//
// One mutex, the store's mu, guards them. Exported methods lock it, as do those of the spooler, which
// lets go of it whenever it waits for the disk; all others are called with mu held. A recovery needs no
// lock: nobody else has the store yet.
//
// # Not promised
//
// What is in memory is lost with the machine, as is what went to disk in the second before; of
// the former, what was sent, or waited while the disk was not in use, is not counted. Where tmpfs
// has no room, waiting lines are lost with the process, which is logged. After
// damage, the rest of a segment is lost. What was put while the process was being killed may or
// may not be there. If a power failure or a full disk leaves the state older than the segments,
// lines are sent again. Two processes must not share a state directory: the caller locks.
package store
