// Package predecessor takes the lines that the version before the store left: a spool
// of segments in the state directory, and a queue in a file that was mapped, to which a
// link leads from there. It can go when nobody upgrades from that version any more.
//
// # Not promised
//
// That a queue is found whose link is gone, or which is locked: two versions must not
// run on one state directory.
package predecessor

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/prefixproxy/prefixproxy/internal/statedir"
)

// Names in the state directory.
const (
	spoolName  = "spool"
	cursorName = "cursor" // in the spool
	queueName  = "queue"
)

// Lines are whole lines that came together.
type Lines struct {
	Data []byte
	Held bool // they wait for a name
	Born time.Time
}

// Count returns how many there are.
func (l Lines) Count() int { return bytes.Count(l.Data, []byte{'\n'}) }

// Adopt hands all that is left to put, the oldest first, and removes it.
func Adopt(state *statedir.Dir, put func(Lines) error, log *slog.Logger) error {
	a := adoption{state, put, log}
	if err := a.spool(); err != nil {
		return fmt.Errorf("spool of an earlier version in %s: %w; make room and start again, or start the earlier version once more and let it send what is there", a.path(spoolName), err)
	}
	if err := a.queue(a.path(queueName)); err != nil {
		return fmt.Errorf("queue of an earlier version behind %s: %w; start the earlier version once more and let it send what is there, or remove the link and lose it", a.path(queueName), err)
	}
	return nil
}

type adoption struct {
	state *statedir.Dir
	put   func(Lines) error
	log   *slog.Logger
}

func (a *adoption) path(name string) string { return filepath.Join(a.state.Path(), name) }

var (
	le         = binary.LittleEndian
	ne         = binary.NativeEndian
	castagnoli = crc32.MakeTable(crc32.Castagnoli)
)

// maxSegment is more than a segment of a spool has.
const maxSegment = 64 << 20

func (a *adoption) spool() error {
	switch info, err := os.Lstat(a.path(spoolName)); {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err == nil && !info.IsDir():
		a.log.Warn("this is no spool of an earlier version, and stays", "file", a.path(spoolName))
		return nil
	}
	dir, err := a.state.Sub(spoolName)
	if err != nil {
		return err
	}
	defer dir.Close()
	number, offset := uint64(0), uint64(0)
	if b, err := dir.ReadFile(cursorName, maxSegment); err == nil && len(b) >= 20 && le.Uint32(b[16:]) == crc32.Checksum(b[:16], castagnoli) {
		number, offset = le.Uint64(b), le.Uint64(b[8:])
	}
	entries, err := os.ReadDir(dir.Path()) // sorted, and the names have leading zeros
	if err != nil {
		return err
	}
	for _, e := range entries {
		digits, isSegment := strings.CutSuffix(e.Name(), ".spool")
		n, err := strconv.ParseUint(digits, 16, 64)
		if !isSegment || err != nil {
			continue
		}
		if n > number {
			offset = 0
		}
		if n >= number {
			if err := a.segment(dir, e.Name(), offset); err != nil {
				return err
			}
		}
		if err := dir.Remove(e.Name()); err != nil {
			return err
		}
	}
	if err := dir.Remove(cursorName); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.Remove(dir.Path()); err != nil {
		a.log.Warn("an earlier version's spool is taken over, and its directory stays", "err", err) // something else is in it, or it is a mount
	}
	return nil
}

// segment takes the records of a segment from an offset on, up to where it is damaged.
func (a *adoption) segment(dir *statedir.Dir, name string, from uint64) error {
	b, err := dir.ReadFile(name, maxSegment)
	if err != nil {
		return err
	}
	if len(b) < 24 || string(b[:8]) != "ppspool\n" || le.Uint32(b[20:]) != crc32.Checksum(b[:20], castagnoli) {
		a.log.Error("part of the earlier spool cannot be read", "file", name, "bytes", len(b))
		return nil
	}
	count, seed := 0, le.Uint32(b[20:])
	for at := uint64(24); at < uint64(len(b)); {
		r := b[at:]
		if len(r) < 25 || le.Uint32(r[21:]) != crc32.Update(seed, castagnoli, r[:21]) || uint64(le.Uint32(r)) > uint64(len(r)-25) {
			a.log.Error("part of the earlier spool cannot be read", "file", name, "offset", at, "bytes", len(r))
			break
		}
		data := r[25 : 25+le.Uint32(r)]
		at += 25 + uint64(len(data))
		if at <= from {
			continue
		}
		if le.Uint32(r[17:]) != crc32.Checksum(data, castagnoli) {
			a.log.Error("part of the earlier spool cannot be read", "file", name, "lines", le.Uint32(r[5:]))
			continue
		}
		lines := Lines{Data: data, Held: r[4] == 2, Born: time.UnixMilli(int64(le.Uint64(r[9:])))}
		count += lines.Count()
		if err := a.put(lines); err != nil {
			return err
		}
	}
	a.log.Info("lines of an earlier version's spool taken over", "file", name, "lines", count)
	return nil
}

// The format of a queue: parts of one size, each behind a header.
const (
	partSize   = 128 << 10
	partHeader = 64
	partMagic  = 0x70_70_71_75_65_75_65_01
)

// A part of a queue.
type part struct {
	offset             int64
	seq                uint64
	kind, length, done uint64
	born               int64
}

func (a *adoption) queue(link string) error {
	path, err := os.Readlink(link)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case errors.Is(err, syscall.EINVAL), err == nil && !isQueue(path): // anybody's file, if somebody planted it
		a.log.Warn("this leads to no queue of an earlier version, and stays", "link", link)
		return nil
	case err != nil:
		return err
	}
	f, err := openOwn(path)
	if errors.Is(err, fs.ErrNotExist) {
		return os.Remove(link) // it ended well, or the machine has started again
	}
	if err != nil {
		return err
	}
	defer f.Close()
	count := 0
	for _, p := range parts(f) {
		from, to := uint64(0), p.length // with what was delivered, as far as it was kept to be sent again
		switch p.kind {
		case 2:
			from = p.done
		case 3:
			to = p.done // the spool has the rest
		}
		data := make([]byte, to-from)
		n, err := f.ReadAt(data, p.offset+partHeader+int64(from))
		if err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		if data = data[:n]; len(data) == 0 || data[len(data)-1] != '\n' {
			continue
		}
		lines := Lines{Data: data, Held: p.kind == 2, Born: time.Unix(0, p.born)}
		count += lines.Count()
		if err := a.put(lines); err != nil {
			return err
		}
	}
	a.log.Info("lines of an earlier version's queue taken over", "file", path, "lines", count)
	return errors.Join(os.Remove(path), os.Remove(link))
}

// isQueue says whether path is named like the file of a queue.
func isQueue(path string) bool {
	matched, _ := filepath.Match("prefixproxy-*.queue", filepath.Base(path))
	return matched
}

// parts returns the sound parts of a queue, in order.
func parts(f *os.File) (all []part) {
	var b [partHeader]byte
	for at := int64(0); ; at += partSize {
		if _, err := f.ReadAt(b[:], at); err != nil {
			break
		}
		p := part{at, ne.Uint64(b[8:]), ne.Uint64(b[16:]), ne.Uint64(b[24:]), ne.Uint64(b[32:]), int64(ne.Uint64(b[40:]))}
		if ne.Uint64(b[:]) == partMagic && p.seq != 0 && p.length <= partSize-partHeader && p.done <= p.length {
			all = append(all, p)
		}
	}
	slices.SortFunc(all, func(a, b part) int { return cmp.Compare(a.seq, b.seq) })
	return all
}

// openOwn opens a file of ours in a directory that others may write, too.
func openOwn(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && (!info.Mode().IsRegular() || int(info.Sys().(*syscall.Stat_t).Uid) != os.Geteuid()) {
		err = fmt.Errorf("%s is no file of ours", path)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// abandonedAge is how long a queue waits for its owner, whose directory it doesn't
// name.
const abandonedAge = 7 * 24 * time.Hour

// Collect removes the queues in dir that no process has had for a week.
func Collect(dir string, log *slog.Logger) {
	entries, _ := os.ReadDir(dir)
	for _, e := range entries {
		if isQueue(e.Name()) {
			path := filepath.Join(dir, e.Name())
			if isAbandoned(path) && os.Remove(path) == nil {
				log.Info("queue of an earlier version's daemon that is gone removed", "file", path)
			}
		}
	}
}

func isAbandoned(path string) bool {
	f, err := openOwn(path)
	if err != nil {
		return false
	}
	defer f.Close()
	info, err := f.Stat()
	return err == nil && time.Since(info.ModTime()) > abandonedAge && unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil
}
