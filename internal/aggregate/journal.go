package aggregate

import (
	"cmp"
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

// A journal writes logs. Without a directory it does nothing.
type journal struct {
	dir        string
	all        []string // directories in which older logs may be
	generation uint64
	log
	err error // the first since a base was complete
}

// A log is the file that is written. state.go has its format.
type log struct {
	file    *os.File // nil: there is none
	broken  bool     // it gets no more lines: numbers would be missing
	missing int      // lines that it should have
	size    int64    // in bytes
	sum     uint32   // of all but the head
	pending []byte   // not written
	base    int64    // bytes up to the end of its base; 0: that is being written
	left    int      // series of the base that are not
	given   uint64   // numbers of series
	before  uint64   // of these in earlier logs
}

func (j *journal) fail(err error) {
	if j.err == nil && err != nil {
		j.err = err
	}
}

func (j *journal) breaks(err error) {
	j.broken = true
	j.fail(err)
}

// isBasing says whether the base is being written.
func (l *log) isBasing() bool { return l.file != nil && !l.broken && l.base == 0 }

// minLines is how many bytes of lines there are before a base is worth more, if it is no longer.
const minLines = 8 << 20

// isLong says whether writing a base costs less than going on with the lines.
func (l *log) isLong() bool {
	return l.base > 0 && !l.broken && l.size-l.base > max(minLines, 2*l.base)
}

// rotate begins the log of the next generation, with a base of so many series.
func (j *journal) rotate(series int) {
	if j.dir == "" {
		return
	}
	os.MkdirAll(j.dir, 0o700) // somebody may have removed it; else its error is the next one, too
	file, err := statedir.OpenFile(logFile{j.dir, linesKind, j.generation + 1}.path(), os.O_CREATE|os.O_TRUNC|os.O_RDWR, 0o600)
	if err == nil {
		_, err = file.WriteAt(headOf(0), 0)
	}
	if err != nil {
		file.Close()
		j.breaks(err)
		return
	}
	j.generation++
	j.follow(file, headLen)
	j.left = series
}

// follow makes file the log.
func (l *log) follow(file *os.File, size int64) {
	l.file.Close()
	*l = log{file: file, size: size, pending: l.pending[:0], given: l.given, before: l.given}
}

// begin begins a record.
func (l *log) begin(kind byte) { l.pending = append(l.pending, kind) }

// end ends one.
func (l *log) end() { l.pending = append(l.pending, '\n') }

// flush writes what waits.
func (j *journal) flush() {
	if j.file != nil && !j.broken {
		_, err := j.file.WriteAt(j.pending, j.size)
		if err == nil {
			j.size += int64(len(j.pending))
			j.sum = crc32.Update(j.sum, crc32.IEEETable, j.pending)
		} else {
			j.file.Truncate(j.size) // what is there of them would count twice
			j.breaks(err)
		}
	}
	j.pending = j.pending[:0]
}

// commit completes the base, and with it the log: no older ones are needed any more.
func (j *journal) commit() {
	j.flush()
	j.pending = fmt.Appendf(j.pending, "%c%08x\n", baseEnd, j.sum)
	if j.flush(); j.broken {
		return
	}
	if err := j.replaceOlder(); err != nil {
		j.fail(err)
		return
	}
	j.base, j.err = j.size, nil
}

// cut empties this log, which lacks so many lines from now on, and removes the older ones: most
// likely the disk is full, and the next process must not find lines whose points have left.
func (j *journal) cut(missing int) {
	if j.file == nil { // none could be begun
		return
	}
	j.broken = true
	j.miss(missing)
	j.fail(errors.Join(j.file.Truncate(headLen), j.replaceOlder()))
}

// replaceOlder lets the log stand for those before it, which are removed.
func (j *journal) replaceOlder() error {
	if j.base == 0 {
		was := j.file.Name() // not in dir, if that took no log yet
		if err := os.Rename(was, logFile{filepath.Dir(was), baseKind, j.generation}.path()); err != nil {
			return err
		}
	}
	for _, l := range logsIn(j.all...) {
		if l.generation < j.generation {
			os.Remove(l.path())
		}
	}
	return nil
}

// miss tells the next process how many lines are missing.
func (j *journal) miss(lines int) {
	if j.broken {
		j.missing = lines
		_, err := j.file.WriteAt(headOf(lines), 0)
		j.fail(err)
	}
}

// sync makes what there is outlive the machine.
func (j *journal) sync() error {
	return errors.Join(j.err, j.file.Sync(), syncDir(j.dir), syncDir(filepath.Dir(j.dir)))
}

func syncDir(path string) error {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0) // a FIFO is not waited for
	if err != nil {
		return err
	}
	defer f.Close()
	return statedir.SyncDir(f)
}

// format, with which a log begins, tells it from those of other versions.
const format = "7 "

// headOf is what a log begins with: how many lines are missing in it. To overwrite that takes no
// room.
func headOf(missing int) []byte { return fmt.Appendf(nil, "%s%10d\n", format, missing) }

const headLen = int64(len(format) + 10 + 1)

// missing returns how many lines are missing in logs, which say so only once.
func missing(logs []logFile) (sum int) {
	for _, l := range logs {
		if file, err := statedir.OpenFile(l.path(), os.O_RDWR, 0); err == nil {
			var version, lines int
			if fmt.Fscan(file, &version, &lines); lines > 0 {
				sum += lines
				file.WriteAt(headOf(0), 0)
			}
			file.Close()
		}
	}
	return sum
}

// A logFile is where a log is.
type logFile struct {
	dir, kind  string
	generation uint64
}

// The kinds of logs: those that have all of their base, and those that need the logs before them.
const (
	baseKind  = "base"
	linesKind = "lines"
)

func (l logFile) path() string {
	return filepath.Join(l.dir, fmt.Sprintf("%s-%016x", l.kind, l.generation))
}

// logsIn returns the logs in dirs, the oldest first.
func logsIn(dirs ...string) (all []logFile) {
	for _, dir := range dirs {
		if info, err := os.Lstat(dir); err != nil || !info.IsDir() {
			continue // what a link leads to is not ours
		}
		entries, _ := os.ReadDir(dir) // where there is none, there are none
		for _, e := range entries {
			kind, digits, _ := strings.Cut(e.Name(), "-")
			if g, err := strconv.ParseUint(digits, 16, 64); err == nil && (kind == baseKind || kind == linesKind) {
				all = append(all, logFile{dir, kind, g})
			}
		}
	}
	slices.SortStableFunc(all, func(x, y logFile) int { return cmp.Compare(x.generation, y.generation) })
	return all
}
