//go:build !linux

package journal

import (
	"errors"
	"fmt"
)

// file is not there.
type file struct{ name string }

// Open is not supported: use InMemory.
func Open(path string) (j *Journal, adopted []*Segment, skipped int, err error) {
	return nil, nil, 0, fmt.Errorf("open the queue's file %s: %w", path, errors.ErrUnsupported)
}

func (f *file) grow() (*Segment, error) { return nil, errors.ErrUnsupported }
func (f *file) close(bool) error        { return nil }
func (s *Segment) discard(*file)        {}
func (s *Segment) reserve(*file) error  { return nil }
func anonymous() []byte                 { return make([]byte, SegmentSize) }
func release([]byte)                    {}
