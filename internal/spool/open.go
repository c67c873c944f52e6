package spool

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
)

// A Report is what Open found.
type Report struct {
	Lines    int      // not committed
	Bytes    int64    // of these lines
	Lost     []Lost   // what could not be read
	SetAside []string // files named like segments that are none of ours, as they are called now
}

// Lost is a stretch of a segment, up to its end, that holds no record: a torn
// write, or damage. Whatever lines it had are not in Report.Lines. Open cuts it
// off where the segment is the last.
type Lost struct {
	File   string
	Offset int64
	Bytes  int64
}

// Open opens the spool in the directory dir, which it makes (0700) where it is
// missing, and finds what was not committed. It reads the headers of all
// records, and the data of the last segment, which was being written when the
// last process or its machine ended. Damage is reported and no error; an error
// is one of the directory, and another attempt may do better.
//
// maxBytes bounds the sum of the files.
func Open(dir string, maxBytes int64) (*Spool, Report, error) {
	if err := makeDirectory(dir); err != nil {
		return nil, Report{}, fmt.Errorf("make the spool directory: %w", err)
	}
	sequences, err := listSegments(dir)
	if err != nil {
		return nil, Report{}, fmt.Errorf("list the spool directory: %w", err)
	}
	s := newSpool(dir, maxBytes)
	if s.committed, err = s.cursor.load(); err != nil {
		return nil, Report{}, err
	}
	s.next = s.committed.sequence + 1
	var report Report
	for i, sequence := range sequences {
		last := i == len(sequences)-1
		if err := s.adopt(newSegment(dir, sequence), last, &report); err != nil {
			return nil, Report{}, fmt.Errorf("open spool segment %s: %w", segmentName(sequence), err)
		}
		s.next = max(s.next, sequence+1)
	}
	// A cursor that exists can be overwritten when the disk is full. Where
	// this fails Commit tries again: what is here can leave all the same.
	_ = s.writeCursor()
	s.publish()
	report.Lines, report.Bytes = s.held.lines, s.held.bytes
	return s, report, nil
}

// makeDirectory makes dir, if need be, so that it outlives a power failure.
func makeDirectory(dir string) error {
	if _, err := os.Stat(dir); err == nil {
		return nil
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	return syncPath(filepath.Dir(dir))
}

// listSegments returns the sequences of the files in dir that are named like
// segments, the oldest first.
func listSegments(dir string) ([]uint64, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var sequences []uint64
	for _, e := range entries {
		if sequence, ok := parseSegmentName(e.Name()); ok {
			sequences = append(sequences, sequence)
		}
	}
	slices.Sort(sequences)
	return sequences, nil
}

// adopt puts a segment of the last process to the others, if it holds anything
// that was not committed, and else removes it.
func (s *Spool) adopt(g *segment, last bool, report *Report) error {
	f, err := os.Open(g.path)
	if err != nil {
		return err
	}
	defer f.Close()

	found := make([]byte, segmentHeader)
	n, err := f.ReadAt(found, 0)
	want := appendSegmentHeader(nil, g.sequence)
	if errors.Is(err, io.EOF) && bytes.HasPrefix(want, found[:n]) {
		if n > 0 {
			report.Lost = append(report.Lost, Lost{g.path, 0, int64(n)})
		}
		return os.Remove(g.path)
	}
	if !bytes.Equal(found, want) {
		aside := g.path + asideSuffix
		report.SetAside = append(report.SetAside, aside)
		return os.Rename(g.path, aside)
	}

	if g.size, err = f.Seek(0, io.SeekEnd); err != nil {
		return err
	}
	if err := g.walk(f, s.start(g), last); err != nil {
		return err
	}
	if g.end < g.size {
		report.Lost = append(report.Lost, Lost{g.path, g.end, g.size - g.end})
	}
	if g.unread.lines == 0 {
		return os.Remove(g.path)
	}
	if last && g.end < g.size {
		if err := g.cut(); err != nil {
			return err
		}
	}
	s.segments = append(s.segments, g)
	s.disk += g.size
	s.held.add(g.unread)
	return nil
}

// start returns the offset in g behind what is committed.
func (s *Spool) start(g *segment) int64 {
	switch {
	case g.sequence < s.committed.sequence:
		return g.size
	case g.sequence == s.committed.sequence:
		return min(max(segmentHeader, s.committed.offset), g.size)
	}
	return segmentHeader
}

// cut ends the file behind its last record. Otherwise the next Open, for which
// another segment is the last, would count records that this one has refused.
func (g *segment) cut() error {
	if err := os.Truncate(g.path, g.end); err != nil {
		return err
	}
	g.size = g.end
	return syncPath(g.path)
}

// syncPath makes what was written to a file, or in a directory, outlive a power
// failure.
func syncPath(path string) error {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // somebody took it away; who reads it will say so
	}
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}
