package aggregate

import (
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/prefixproxy/prefixproxy/internal/statedir"
)

// A journal writes the files. Without a directory it does nothing.
type journal struct {
	dir        string
	generation uint64
	lineFile
	draft
	tally  *os.File // how many lines the slots have; nil: there is none
	told   bool     // that says so
	length int64    // of the last base, in bytes
	err    error    // the first since a base was written
}

// A lineFile is lines-generation.
type lineFile struct {
	lines   *os.File // nil: it cannot be written
	size    int64
	pending []byte // not written
	given   uint64 // numbers of series
	before  uint64 // of these in earlier files
}

// A draft is the next base, beside the one that is in effect.
type draft struct {
	base        *os.File // nil: there is none
	based, last int      // of its series: so many are written, and will be; last: where no flush writes it
	buf         []byte   // not written
	sum         uint32   // of what is
	written     int64    // bytes
}

func pathOf(dir, kind string, generation uint64) string {
	return filepath.Join(dir, fmt.Sprintf("%s-%016x", kind, generation))
}

func (j *journal) fail(err error) {
	if j.err == nil && err != nil {
		j.err = err
	}
}

// minLines is how many bytes of lines there are before a base is worth more, if it is no longer.
const minLines = 8 << 20

// isLong says whether writing a base costs less than going on with the lines.
func (j *journal) isLong() bool {
	return j.size > max(minLines, 2*j.length) && j.base == nil
}

// count appends a line that was counted.
func (j *journal) count(p *pending) {
	if j.lines == nil {
		return
	}
	metrics := p.metrics
	if p.kind != noKind && p.s.number > j.before {
		j.pending = strconv.AppendUint(append(j.pending, numbered), p.s.number-j.before, 10)
		metrics = metrics[:p.length]
	} else {
		j.pending = append(append(j.pending, whole), p.path...)
		if p.kind != noKind {
			j.number(p.s)
		}
	}
	j.pending = append(append(append(j.pending, ':'), metrics...), '\n')
}

// number gives the next number to s, or to nobody.
func (j *journal) number(s *series) {
	j.given++
	if s != nil {
		s.number = j.given
	}
}

// flush writes what waits, and returns whether the file has all lines. If not, it gets no
// more: numbers would be missing.
func (j *journal) flush() bool {
	if j.lines == nil {
		return false
	}
	if _, err := j.lines.WriteAt(j.pending, j.size); err != nil {
		j.lines.Truncate(j.size) // what is there of them would count twice
		j.follow(nil, err)
		return false
	}
	j.size += int64(len(j.pending))
	j.pending = j.pending[:0]
	return true
}

const countName = "count"

// prepare makes the file in which lines are counted that are in no other: to overwrite it takes no room.
func (j *journal) prepare() {
	file, err := statedir.OpenFile(filepath.Join(j.dir, countName), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		j.fail(err)
		return
	}
	j.tally = file
	j.tell(Slot{}, Slot{})
}

// tell says how many lines two slots have.
func (j *journal) tell(open, sealed Slot) {
	_, err := j.tally.WriteAt(fmt.Appendf(nil, "%10d %10d %10d %10d\n", open.Seq, open.Lines, sealed.Seq, sealed.Lines), 0)
	j.fail(err)
}

// told returns how many lines each slot had when the last process wrote that.
func told(dir string) map[int32]int {
	var open, sealed Slot
	text, _ := statedir.ReadFile(filepath.Join(dir, countName), 100)
	if _, err := fmt.Sscan(string(text), &open.Seq, &open.Lines, &sealed.Seq, &sealed.Lines); err != nil {
		return nil
	}
	return map[int32]int{open.Seq: open.Lines, sealed.Seq: sealed.Lines}
}

// note names the slot of the lines after it, and returns whether it is in the file.
func (j *journal) note(h header) bool {
	if j.lines == nil {
		return false
	}
	text, err := json.Marshal(h)
	j.fail(err)
	j.pending = append(append(append(j.pending, note), text...), '\n')
	return j.flush()
}

// turn begins the lines of the next generation, and the base that they follow.
func (j *journal) turn(h header) {
	if j.dir == "" {
		return
	}
	j.flush()
	j.generation++
	j.before = j.given
	j.follow(statedir.OpenFile(pathOf(j.dir, "lines", j.generation), os.O_CREATE|os.O_TRUNC|os.O_RDWR, 0o600))
	j.note(h)
	j.create(h)
}

// follow makes file that of the lines.
func (j *journal) follow(file *os.File, err error) {
	if j.lines != nil {
		j.lines.Close()
	}
	j.lines, j.size, j.pending = file, 0, j.pending[:0]
	if err != nil {
		j.lines = nil
		j.fail(err)
	}
}

// create begins a base.
func (j *journal) create(h header) {
	j.abandon()
	text, err := json.Marshal(h)
	j.buf, j.sum, j.written, j.based = append(append(j.buf[:0], text...), '\n'), 0, 0, 0
	if err == nil {
		j.base, err = statedir.OpenFile(filepath.Join(j.dir, "base.new"), os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	}
	if err != nil {
		j.base = nil
		j.fail(err)
	}
}

// abandon gives up a base that is not complete: what was there before stays.
func (j *journal) abandon() {
	if j.base != nil {
		j.base.Close()
		j.base = nil
	}
}

// commit completes the base, which replaces what is older. It returns whether that
// succeeded.
func (j *journal) commit() bool {
	if j.base == nil {
		return false
	}
	j.spill(0)
	j.buf = append(j.buf, crcText(j.sum)...)
	j.spill(0)
	if j.base == nil {
		return false
	}
	name := j.base.Name()
	j.abandon()
	if err := os.Rename(name, pathOf(j.dir, "base", j.generation)); err != nil {
		j.fail(err)
		return false
	}
	j.length, j.err = j.written, nil
	removeBefore(j.dir, j.generation)
	return true
}

// removeBefore removes the files of earlier generations: bases first, since lines without
// their base are never read.
func removeBefore(dir string, generation uint64) {
	for _, kind := range []string{"base", "lines"} {
		for _, g := range generationsOf(dir, kind) {
			if g < generation {
				os.Remove(pathOf(dir, kind, g))
			}
		}
	}
}

// crcText is how a base ends.
func crcText(sum uint32) string { return fmt.Sprintf("%0*x", crcLen, sum) }

const (
	crcLen      = 8
	maxBuffered = 64 << 10 // bytes of a base
)

// spill writes the buffer out if it holds more than most.
func (j *journal) spill(most int) {
	if j.base == nil || len(j.buf) <= most {
		return
	}
	j.sum = crc32.Update(j.sum, crc32.IEEETable, j.buf)
	n, err := j.base.Write(j.buf)
	j.written += int64(n)
	j.buf = j.buf[:0]
	if err != nil {
		j.fail(err)
		j.abandon()
	}
}

// leave syncs what there is.
func (j *journal) leave() error {
	j.follow(nil, nil)
	return errors.Join(j.err, syncFile(pathOf(j.dir, "base", j.generation)), syncFile(j.dir), syncFile(filepath.Dir(j.dir)))
}

func syncFile(path string) error {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0) // a FIFO is not waited for
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}

// newest returns the newest base in any of dirs; dir is "" if there is none.
func newest(dirs []string) (dir string, generation uint64) {
	for _, d := range dirs {
		for _, g := range generationsOf(d, "base") {
			if g > generation {
				dir, generation = d, g
			}
		}
	}
	return dir, generation
}

// generationsOf returns the generations of one kind of files.
func generationsOf(dir, kind string) (all []uint64) {
	if info, err := os.Lstat(dir); err != nil || !info.IsDir() {
		return nil // what a link leads to is not ours
	}
	entries, _ := os.ReadDir(dir) // where there is none, there are none
	for _, e := range entries {
		digits, ok := strings.CutPrefix(e.Name(), kind+"-")
		if g, err := strconv.ParseUint(digits, 16, 64); ok && err == nil {
			all = append(all, g)
		}
	}
	slices.Sort(all)
	return all
}
