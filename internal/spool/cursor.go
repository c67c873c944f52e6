package spool

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"math"
	"os"
	"path/filepath"
)

const (
	cursorName = "cursor"
	cursorSize = 20 // bytes
)

// A position is a place between records: behind all of the segments before
// sequence, and behind offset bytes of that one.
type position struct {
	sequence uint64
	offset   int64
}

// A cursor is the file that remembers what is committed. It is made at the
// first write and overwritten in place, which needs no room on a full disk.
type cursor struct {
	dir   string
	file  *os.File
	buf   [cursorSize]byte
	dirty bool // written since the last sync
}

// load reads the position that was written last. A cursor that is missing or
// damaged is at the start: what was committed comes once more. One that cannot
// be read is an error: it may be ahead of the segments that would come now.
func (c *cursor) load() (position, error) {
	b, err := os.ReadFile(c.path())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return position{}, fmt.Errorf("read the spool's cursor: %w", err)
	}
	if len(b) < cursorSize || binary.LittleEndian.Uint32(b[16:]) != crc32.Checksum(b[:16], castagnoli) {
		return position{}, nil
	}
	p := position{binary.LittleEndian.Uint64(b), int64(binary.LittleEndian.Uint64(b[8:]))}
	if p.sequence == math.MaxUint64 || p.offset < 0 {
		return position{}, nil
	}
	return p, nil
}

// write makes p survive the end of the process. made: the file is new.
func (c *cursor) write(p position) (made bool, err error) {
	if c.file == nil {
		_, err := os.Lstat(c.path())
		made = err != nil
		if c.file, err = os.OpenFile(c.path(), os.O_WRONLY|os.O_CREATE, 0o600); err != nil {
			c.file = nil
			return false, fmt.Errorf("open the spool's cursor: %w", err)
		}
	}
	binary.LittleEndian.PutUint64(c.buf[:], p.sequence)
	binary.LittleEndian.PutUint64(c.buf[8:], uint64(p.offset))
	binary.LittleEndian.PutUint32(c.buf[16:], crc32.Checksum(c.buf[:16], castagnoli))
	if _, err := c.file.WriteAt(c.buf[:], 0); err != nil {
		return made, fmt.Errorf("write the spool's cursor: %w", err)
	}
	c.dirty = true
	return made, nil
}

func (c *cursor) sync() error {
	if !c.dirty {
		return nil
	}
	if err := c.file.Sync(); err != nil {
		return fmt.Errorf("sync the spool's cursor: %w", err)
	}
	c.dirty = false
	return nil
}

func (c *cursor) close() {
	if c.file != nil {
		c.file.Close()
		c.file = nil
	}
}

func (c *cursor) path() string { return filepath.Join(c.dir, cursorName) }
