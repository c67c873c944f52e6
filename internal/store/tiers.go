package store

import (
	"log/slog"

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

// tiers are where the files of segments are, and how much they take.
type tiers struct {
	out    *slog.Logger
	files  files
	id     uint64        // of the store, in all of its files
	disk   *statedir.Dir // of the second tier; nil: there is none
	memory *memdir.Dir   // of the first tier; nil: its files have no names

	bounds
	used         [2]int64 // bytes, by tier
	spare        []entry  // files in memory that are not in use
	unused       []entry  // files on disk to remove: when the state there doesn't name them, or for their room
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
