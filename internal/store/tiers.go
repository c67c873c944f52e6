package store

import (
	"log/slog"

	"github.com/prefixproxy/prefixproxy/internal/memdir"
	"github.com/prefixproxy/prefixproxy/internal/records"
	"github.com/prefixproxy/prefixproxy/internal/statedir"
)

// tiers are where the files of segments are, and how much they take. The store's mutex guards
// them.
type tiers struct {
	out    *slog.Logger
	files  files
	id     uint64        // of the store, in all of its files
	disk   *statedir.Dir // of the second tier; nil: there is none
	memory *memdir.Dir   // of the first tier; nil: its files have no names

	segmentSize          int64      // bytes, at most; more if it has one record
	memoryUsed, diskUsed int64      // bytes
	maxSpare             int64      // bytes
	spare                []*segment // files in memory that are not in use
	trash                []*segment // whose files on disk are to be removed
	saidUnkept           bool
	saidNoRoom           bool // and no segment has been begun since

	header       [records.HeaderSize]byte // buffers
	recordHeader [records.RecordHeader]byte
}

// dirs are the directories in which files have names: on disk, then in memory.
func (t *tiers) dirs() (all []*statedir.Dir) {
	if t.disk != nil {
		all = append(all, t.disk)
	}
	if t.memory != nil {
		all = append(all, t.memory.Dir)
	}
	return all
}

func (t *tiers) used(onDisk bool) int64 {
	if onDisk {
		return t.diskUsed
	}
	return t.memoryUsed
}

// begin makes the file of a new segment in memory: one that was used before, since overwriting
// is cheaper than new memory, or a new one.
func (t *tiers) begin(g *segment, hasName bool) (err error) {
	if last := len(t.spare) - 1; hasName && last >= 0 {
		g.file, g.dir, g.name = t.spare[last].file, t.spare[last].dir, t.spare[last].name
		t.spare = t.spare[:last]
	} else if hasName && t.memory != nil {
		g.dir, g.name = t.memory.Dir, segmentName(g.Kind, g.Base.At)
		g.file, err = t.files.create(g.dir, g.name)
	} else if _, err = t.files.ask("create", "memory", 0); err == nil {
		g.file, err = nameless()
	}
	if err != nil {
		return err
	}
	if err = t.files.write(g.file, g.Append(t.header[:0]), nil, 0); err != nil {
		t.discard(g)
		return err
	}
	t.memoryUsed += records.HeaderSize
	t.saidNoRoom = false
	return nil
}

// free ends the use of a segment that is no longer in its log.
func (t *tiers) free(g *segment) {
	g.gone = true
	if g.onDisk {
		t.diskUsed -= g.size()
		t.trash = append(t.trash, g)
		return
	}
	t.memoryUsed -= g.size()
	t.release(g)
}

// release keeps the file of a segment in memory for the next one, or removes it.
func (t *tiers) release(g *segment) {
	mayStay := g.dir != nil || t.memory == nil
	isSmall := len(t.spare) < 2 || int64(len(t.spare)+1)*t.segmentSize <= t.maxSpare
	if mayStay && isSmall && g.Base != g.end { // else the next one has its place
		t.spare = append(t.spare, g)
		return
	}
	t.discard(g)
}

// discard closes and removes the file of a segment in memory.
func (t *tiers) discard(g *segment) {
	g.file.Close()
	if g.dir != nil {
		t.files.remove(g.dir, g.name)
	}
}

// unkept logs that lines would not survive the process.
func (t *tiers) unkept(err error) {
	if !t.saidUnkept {
		t.saidUnkept = true
		t.out.Warn("the queue has no room for its files; some of what waits would be lost if the process were killed", "err", err)
	}
}

// noRoom logs that lines are dropped.
func (t *tiers) noRoom(lines int, err error) {
	if !t.saidNoRoom {
		t.saidNoRoom = true
		t.out.Error("lines dropped: no memory for them", "lines", lines, "err", err)
	}
}
