// Package spool keeps Carbon lines on disk, in the order in which they came,
// until somebody says that they are delivered.
//
//	s, report, err := spool.Open(dir, maxBytes)
//	dropped, err := s.Append(spool.Named, time.Now(), lines, data)
//	record, err := s.Next(buf[:0]) // look at the oldest
//	…                              // deliver record.Data
//	err = s.Commit(record)         // it need not come again
//	err = s.Sync()                 // once a second
//
// Next gives each record out once; Commit makes it final. What was given out
// and not committed is given out again after the next Open.
//
// Lines lie in segments, files that are only ever appended to. A segment goes
// when all of its records are committed, or when room is needed and it is the
// oldest. Open never appends to a segment that it finds. All integers are
// little endian, all sums are CRC-32C.
//
// A segment, 0000000000000001.spool (its sequence, 16 hexadecimal digits):
//
//	+-------------+------------+-------------+--------+--------+--------+---
//	| "ppspool\n" | version: 4 | sequence: 8 | sum: 4 | record | record | …
//	+-------------+------------+-------------+--------+--------+--------+---
//	                                           of the 20 bytes before it
//
// A record:
//
//	+-----------+---------+----------+---------+-----------+--------+-----------
//	| length: 4 | kind: 1 | lines: 4 | born: 8 | data's: 4 | sum: 4 | data …
//	+-----------+---------+----------+---------+-----------+--------+-----------
//	  of data                          Unix ms   its sum     of the 21 bytes
//	                                                         before it
//
// The header's sum goes on from the sum of the segment's header: no header is
// sound in any other segment.
//
// The cursor, a file of its own, overwritten in place: all that lies before it
// is committed.
//
//	+-------------+-----------+--------+
//	| sequence: 8 | offset: 8 | sum: 4 |
//	+-------------+-----------+--------+
//
// In reading order: spool.go (Append, Next, Commit, Sync), open.go (what the
// last process left), segment.go and cursor.go (the formats).
//
// Not promised: that anything appended or committed since the last Sync
// outlives a power failure (lines may be lost, or given out again; a process
// that is killed loses nothing). That lines behind a damaged record header are
// found: its segment ends there. That files set aside as *.bad count against
// the bound. That two processes may have one directory open: the caller locks.
package spool
