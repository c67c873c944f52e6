// Package journal keeps lines in memory that outlives the process: in a mapped
// file on tmpfs, which the next process adopts. A process that is killed loses
// nothing of what it had put there, and putting costs what it costs to copy.
//
// The file is a row of segments of 128 KiB. Each begins with a header of 64
// bytes, in the machine's byte order, and holds whole lines behind it:
//
//	0        8        16       24       32       40       48            64
//	| magic  | seq    | kind   | length | done   | born   | zero        |
//	| lines, each ended by '\n', of `length` bytes in all …             |
//
// seq is 0 in a segment that is not in use, and otherwise orders the segments.
// length and done are bytes: the lines that were put, and those at their head
// that need no more delivery. born is the arrival of the first line, in Unix
// nanoseconds.
//
// Lines are copied first, and then length is stored, in one instruction: there
// is no moment at which the process could be killed and leave half a line.
//
// # Not promised
//
// The file is lost with the machine's memory: at a power failure or a reboot
// (on tmpfs), and when its pages are not written back yet (on a disk). It is
// not checked for what others may have written into it but for what would
// crash us.
package journal
