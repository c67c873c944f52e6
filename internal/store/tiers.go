package store

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"syscall"
	"time"

	"github.com/prefixproxy/prefixproxy/internal/memdir"
	"github.com/prefixproxy/prefixproxy/internal/records"
	"github.com/prefixproxy/prefixproxy/internal/statedir"
)

// A tier is where a segment is.
type tier int

// The tiers: files on tmpfs, and files on disk.
const (
	inMemory tier = iota
	onDisk
)

// full is the reason for dropping lines there.
func (t tier) full() Reason { return [...]Reason{inMemory: QueueFull, onDisk: SpoolFull}[t] }

// tiers are the two logs, whose segments are files in memory and then on disk. They know how much
// these take, and not who needs them.
type tiers struct {
	out    *slog.Logger
	files  files
	id     uint64        // of the store, in all of its files
	disk   *statedir.Dir // of the second tier; nil: there is none
	memory *memdir.Dir   // of the first tier; nil: its files have no names
	named  log           // lines as they leave
	held   log           // lines that wait for a name

	bounds
	used         [2]int64      // bytes, by tier
	spare        []entry       // files in memory that are not in use
	unused       []entry       // files on disk to remove: when the state there doesn't name them, or for their room
	unsynced     []*segment    // on disk
	dirty        chan struct{} // cap 1: the disk is to be synced, and to know the state
	saidUnkept   bool
	saidNoRoom   bool                       // and no segment has been filled since
	recordHeader [records.RecordHeader]byte // a buffer
}

// bounds are how many bytes may be kept.
type bounds struct {
	segmentSize int64 // at most; more if it has one record
	limit       [2]int64
	relaxed     int64 // in memory, from which the oldest go to disk
	pressure    int64 // likewise; less where there was no room for the files
	most        int64 // in memory: the limit or, where that was lowered, what was there then, as far as it still is
	grain       int64 // of segments before it was
}

// allowed returns how much may be kept, where it was most before: up to a limit, or up to what is used
// and a segment.
func (b *bounds) allowed(most, limit, used int64) int64 { return max(limit, min(most, used+b.grain)) }

// resize sets the bounds to what the destinations ask for.
func (t *tiers) resize(to []Destination) {
	var queue, least, replay, spool int64
	for _, d := range to {
		queue, least = max(queue, d.Queue), min(cmp.Or(least, d.Queue), d.Queue)
		replay, spool = max(replay, d.Replay), max(spool, d.Spool)
	}
	if t.disk == nil {
		spool = 0
	}
	t.grain = t.segmentSize
	t.segmentSize = min(max(least/64, records.ChunkSize), 16<<20)
	slack := 3 * t.segmentSize // parts that are needed no more, of the first and of the last
	t.limit = [2]int64{inMemory: queue + replay + slack, onDisk: spool}
	t.relaxed = queue/2 + replay + slack
	t.pressure = t.relaxed
}

// isPressed says whether lines must go to disk.
func (t *tiers) isPressed() bool {
	return t.limit[onDisk] > 0 && t.used[inMemory] > t.pressure
}

// free ends the use of a segment that is no longer in its log.
func (t *tiers) free(g *segment) {
	t.used[g.tier] -= g.size()
	if g.tier == inMemory {
		t.release(g.entry)
		return
	}
	t.unused = append(t.unused, g.entry)
	notify(t.dirty)
}

func (t *tiers) logs() [2]*log { return [2]*log{&t.named, &t.held} }

func (t *tiers) logOf(g *segment) *log { return t.logs()[g.Kind-records.Named] }

func (t *tiers) segments() []*segment { return slices.Concat(t.named.segments, t.held.segments) }

// eldest returns the segment of a tier with the oldest lines, but for one that is moving, or nil.
func (t *tiers) eldest(in tier) (eldest *segment) {
	for _, l := range t.logs() {
		all := l.tier(in)
		if len(all) > 0 && all[0].moving {
			all = all[1:]
		}
		if len(all) > 0 && (eldest == nil || all[0].Born.Before(eldest.Born)) {
			eldest = all[0]
		}
	}
	return eldest
}

// append writes a record at the end of the log, and returns where it is. If no file with a name
// has room, it goes to one without.
func (t *tiers) append(l *log, lines []byte, n int, born time.Time) (sp records.Span, err error) {
	size := records.RecordHeader + int64(len(lines))
	for _, hasName := range []bool{true, false} {
		var g *segment
		if g, err = t.room(l, size, born, hasName); err == nil {
			g.PutRecord(t.recordHeader[:], l.tail, lines, n, born)
			if err = t.files.write(g.file, t.recordHeader[:], lines, g.Offset(l.tail)); err == nil {
				sp.From = l.tail
				l.tail = records.Place{At: l.tail.At + uint64(size), Line: l.tail.Line + uint64(n)}
				sp.To, g.end = l.tail, l.tail
				t.used[inMemory] += size
				return sp, nil
			}
			g.sealed = true // what is behind its end is no record
		}
		t.unkept(err)
	}
	return sp, err
}

// room returns the last segment if it has room for so many bytes, or else a new one. If none can
// be created, for lack of descriptors, the last one goes on, up to the limit of memory.
func (t *tiers) room(l *log, size int64, born time.Time, hasName bool) (*segment, error) {
	open := l.last()
	isOpen := open != nil && !open.sealed
	if isOpen && open.size()+size <= t.segmentSize {
		return open, nil
	}
	g := &segment{Header: records.Header{ID: t.id, Kind: l.kind, Base: l.tail, Born: born}, end: l.tail}
	err := t.begin(g, hasName)
	if errors.Is(err, syscall.EMFILE) && l.closeFiles() {
		err = t.begin(g, hasName)
	}
	if err != nil {
		if isOpen && !hasName && t.used[inMemory]+size <= t.limit[inMemory] {
			return open, nil
		}
		return nil, fmt.Errorf("begin a segment: %w", err)
	}
	if isOpen {
		open.sealed = true
		t.saidNoRoom = false
	}
	l.segments = append(l.segments, g)
	return g, nil
}

// begin makes the file of a new segment in memory: one that was used before, since overwriting
// is cheaper than new memory, or a new one.
func (t *tiers) begin(g *segment, hasName bool) (err error) {
	if last := len(t.spare) - 1; hasName && last >= 0 {
		g.entry, t.spare = t.spare[last], t.spare[:last]
	} else if hasName && t.memory != nil {
		g.dir, g.name = t.memory.Dir, segmentName(g.Kind, g.Base.At)
		g.file, err = t.files.create(g.dir, g.name)
	} else {
		g.file, err = t.files.nameless()
	}
	if err != nil {
		return err
	}
	if err = t.files.write(g.file, g.Append(nil), nil, 0); err != nil {
		t.discard(g.entry)
		return err
	}
	if t.pressure < t.relaxed && t.memory != nil && t.files.free(t.memory.Path()) > t.limit[inMemory]-t.used[inMemory] {
		t.pressure = t.relaxed
	}
	t.used[inMemory] += records.HeaderSize
	return nil
}

// release keeps the file of a segment in memory for the next one, or removes it.
func (t *tiers) release(e entry) {
	isOurs := e.file != nil && (e.dir != nil || t.memory == nil)
	if isOurs && int64(len(t.spare))*t.segmentSize < t.limit[inMemory]/8 {
		t.spare = append(t.spare, e)
	} else {
		t.discard(e)
	}
}

// discard closes and removes a file in memory.
func (t *tiers) discard(e entry) {
	e.file.Close()
	if e.dir != nil {
		t.files.remove(e.dir, e.name)
	}
}

// unkept logs that lines would not survive the process. Where there is no room for what may wait
// in memory, it goes to disk before, until there is.
func (t *tiers) unkept(err error) {
	t.pressure = min(t.pressure, t.used[inMemory]/2)
	if !t.saidUnkept {
		t.saidUnkept = true
		t.out.Warn("the queue has no room for its files; some of what waits would be lost if the process were killed", "err", err)
	}
}
