package store

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// This file takes what the version before this one left in a state directory: a spool
// in segments, and a link to a queue in a mapped file. It can go when nobody upgrades
// from there any more.

// Names in the state directory.
const (
	oldSpoolName = "spool"
	oldQueueName = "queue"
)

// adoptOld takes over what is there, the oldest first, and removes it.
func (s *Store) adoptOld(at Places) error {
	spool, queue := filepath.Join(at.State, oldSpoolName), filepath.Join(at.State, oldQueueName)
	if err := s.adoptOldSpool(spool); err != nil {
		return fmt.Errorf("spool of an earlier version in %s: %w; make room and start again, or start the earlier version once more and let it send what is there", spool, err)
	}
	if err := s.adoptOldQueue(queue); err != nil {
		return fmt.Errorf("queue of an earlier version behind %s: %w; start the earlier version once more and let it send what is there, or remove the link and lose it", queue, err)
	}
	return nil
}

// adoptLines puts lines that were found. What memory cannot hold goes to disk at once.
func (s *Store) adoptLines(k kind, lines []byte, n int, born time.Time) error {
	s.mu.Lock()
	l := &s.named
	if k == held {
		l = &s.held.log
	}
	for _, c := range s.cursors {
		c.books.Adopted += uint64(n)
	}
	s.put(l, lines, n, born, false)
	s.excess = s.memoryUsed
	s.mu.Unlock()
	return s.moveDown(segmentsAtOnce)
}

// oldSegments returns the segments of an old spool, by their numbers.
func oldSegments(dir string) (paths []string, numbers []uint64) {
	entries, _ := os.ReadDir(dir) // sorted, and the names have leading zeros
	for _, e := range entries {
		if digits, ok := strings.CutSuffix(e.Name(), ".spool"); ok {
			if n, err := strconv.ParseUint(digits, 16, 64); err == nil {
				paths, numbers = append(paths, filepath.Join(dir, e.Name())), append(numbers, n)
			}
		}
	}
	return paths, numbers
}

func (s *Store) adoptOldSpool(dir string) error {
	if d, err := openOurs(dir, os.O_RDONLY); errors.Is(err, os.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	} else {
		d.Close()
	}
	le := binary.LittleEndian
	number, offset := uint64(0), uint64(0)
	if b, err := readOurs(filepath.Join(dir, "cursor")); err == nil && len(b) >= 20 && le.Uint32(b[16:]) == crc32.Checksum(b[:16], castagnoli) {
		number, offset = le.Uint64(b), le.Uint64(b[8:])
	}
	paths, numbers := oldSegments(dir)
	for i, path := range paths {
		from := uint64(0)
		if numbers[i] == number {
			from = offset
		}
		if numbers[i] >= number {
			if err := s.adoptOldSegment(path, from); err != nil {
				return err
			}
		}
		if err := s.files.remove(path); err != nil {
			return err
		}
	}
	return errors.Join(s.files.remove(filepath.Join(dir, "cursor")), os.Remove(dir))
}

// adoptOldSegment takes the records of a segment from an offset on, up to where it is
// damaged.
func (s *Store) adoptOldSegment(path string, from uint64) error {
	b, err := readOurs(path)
	if err != nil {
		return err
	}
	le := binary.LittleEndian
	if len(b) < 24 || string(b[:8]) != "ppspool\n" || le.Uint32(b[20:]) != crc32.Checksum(b[:20], castagnoli) {
		s.out.Error("part of the earlier spool cannot be read", "file", path, "bytes", len(b))
		return nil
	}
	lines, seed := 0, le.Uint32(b[20:])
	for at := uint64(24); at < uint64(len(b)); {
		r := b[at:]
		if len(r) < 25 || le.Uint32(r[21:]) != crc32.Update(seed, castagnoli, r[:21]) || uint64(le.Uint32(r)) > uint64(len(r)-25) {
			s.out.Error("part of the earlier spool cannot be read", "file", path, "offset", at, "bytes", len(r))
			break
		}
		data := r[25 : 25+le.Uint32(r)]
		at += 25 + uint64(len(data))
		if at <= from {
			continue
		}
		if le.Uint32(r[17:]) != crc32.Checksum(data, castagnoli) {
			s.out.Error("part of the earlier spool cannot be read", "file", path, "lines", le.Uint32(r[5:]))
			continue
		}
		k := named
		if r[4] == 2 {
			k = held
		}
		n := countLines(data)
		lines += n
		if err := s.adoptLines(k, data, n, time.UnixMilli(int64(le.Uint64(r[9:])))); err != nil {
			return err
		}
	}
	s.out.Info("lines of an earlier version's spool taken over", "file", path, "lines", lines)
	return nil
}

// An oldPart is a segment of an old queue.
type oldPart struct {
	offset             int64
	seq                uint64
	kind, length, done uint64
	born               int64
}

func (s *Store) adoptOldQueue(link string) error {
	path, err := os.Readlink(link)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	f, err := openOurs(path, os.O_RDONLY)
	if errors.Is(err, os.ErrNotExist) {
		return os.Remove(link) // it ended well, or the machine has started again
	}
	if err != nil {
		return err
	}
	defer f.Close()
	const size, header = 128 << 10, 64
	ne := binary.NativeEndian
	var parts []oldPart
	var b [header]byte
	for at := int64(0); ; at += size {
		if _, err := f.ReadAt(b[:], at); err != nil {
			break
		}
		p := oldPart{at, ne.Uint64(b[8:]), ne.Uint64(b[16:]), ne.Uint64(b[24:]), ne.Uint64(b[32:]), int64(ne.Uint64(b[40:]))}
		if ne.Uint64(b[:]) == 0x70_70_71_75_65_75_65_01 && p.seq != 0 && p.length <= size-header && p.done <= p.length {
			parts = append(parts, p)
		}
	}
	slices.SortFunc(parts, func(a, b oldPart) int { return cmp.Compare(a.seq, b.seq) })
	lines := 0
	for _, p := range parts {
		k, from, to := named, uint64(0), p.length // with what was delivered, as far as it was kept to be sent again
		switch p.kind {
		case 2:
			k, from = held, p.done
		case 3:
			to = p.done // the spool has the rest
		}
		data := make([]byte, to-from)
		n, err := f.ReadAt(data, p.offset+header+int64(from))
		if err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		if data = data[:n]; len(data) == 0 || data[len(data)-1] != '\n' {
			continue
		}
		lines += countLines(data)
		if err := s.adoptLines(k, data, countLines(data), time.Unix(0, p.born)); err != nil {
			return err
		}
	}
	s.out.Info("lines of an earlier version's queue taken over", "file", path, "lines", lines)
	return errors.Join(s.files.remove(path), os.Remove(link))
}
