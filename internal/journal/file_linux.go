package journal

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"syscall"

	"golang.org/x/sys/unix"
)

// file is the mapped file. Its segments are mapped one by one, as they are
// needed, and stay mapped.
type file struct {
	*os.File
	name string
	size int64
}

// Open opens the file at path, which it makes when it is not there (0600), and
// returns the segments in it that hold lines, the oldest first: they are the
// caller's. skipped counts segments in use that made no sense. It refuses a file
// that is not ours alone.
func Open(path string) (j *Journal, adopted []*Segment, skipped int, err error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0o600)
	if err != nil {
		return nil, nil, 0, fmt.Errorf("open the queue's file: %w", err)
	}
	j = &Journal{file: &file{File: f, name: path}}
	if adopted, skipped, err = j.adopt(); err != nil {
		f.Close()
		return nil, nil, 0, fmt.Errorf("queue's file %s: %w", path, err)
	}
	return j, adopted, skipped, nil
}

// adopt looks at all segments of the file.
func (j *Journal) adopt() (adopted []*Segment, skipped int, err error) {
	size, err := j.file.check()
	if err != nil {
		return nil, 0, err
	}
	for j.file.size+SegmentSize <= size {
		offset := j.file.size
		j.file.size += SegmentSize
		used, err := j.file.isUsed(offset)
		if err != nil {
			return nil, 0, err
		}
		s, err := j.file.segment(offset, 0)
		if err != nil {
			return nil, 0, err
		}
		s.discarded = !used // it may have no memory
		switch {
		case used && s.recall():
			j.seq = max(j.seq, s.header.seq.Load())
			adopted = append(adopted, s)
			continue
		case used && s.header.length.Load() != 0:
			skipped++
			fallthrough
		case used:
			s.header.seq.Store(0)
		}
		j.free = append(j.free, s)
	}
	slices.SortFunc(adopted, func(a, b *Segment) int {
		return int(int64(a.header.seq.Load() - b.header.seq.Load()))
	})
	return adopted, skipped, nil
}

// check locks the file and returns its size.
func (f *file) check() (size int64, err error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return 0, err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG || int(st.Uid) != os.Geteuid() || st.Mode&0o077 != 0 || st.Nlink != 1 {
		return 0, errors.New("not a file that is ours alone; remove it")
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return 0, fmt.Errorf("lock: %w", err)
	}
	return st.Size, nil
}

// isUsed reads the head of a segment without making memory for it.
func (f *file) isUsed(offset int64) (bool, error) {
	var head [16]byte
	if _, err := f.ReadAt(head[:], offset); err != nil {
		return false, err
	}
	return head != [16]byte{} && [8]byte(head[8:]) != [8]byte{}, nil
}

// grow adds a segment at the end of the file.
func (f *file) grow() (*Segment, error) {
	offset := f.size
	if err := f.allocate(offset); err != nil {
		return nil, err
	}
	s, err := f.segment(offset, unix.MAP_POPULATE) // at once, and not page by page as they are touched
	if err == nil {
		f.size += SegmentSize
	}
	return s, err
}

// allocate makes the memory of a segment. A mapped page for which there is no
// memory would end the process by SIGBUS.
func (f *file) allocate(offset int64) error {
	for {
		err := unix.Fallocate(int(f.Fd()), 0, offset, SegmentSize)
		if !errors.Is(err, unix.EINTR) {
			return noteError("make room in "+f.name, err)
		}
	}
}

func (f *file) segment(offset int64, flags int) (*Segment, error) {
	memory, err := unix.Mmap(int(f.Fd()), offset, SegmentSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|flags)
	if err != nil {
		return nil, noteError("map "+f.name, err)
	}
	return newSegment(memory, offset), nil
}

func noteError(what string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", what, err)
}

func (f *file) close(remove bool) error {
	var err error
	if remove {
		err = os.Remove(f.name)
	}
	unlocked := unix.Flock(int(f.Fd()), unix.LOCK_UN) // which closing does not do: it is mapped
	return errors.Join(err, unlocked, f.Close())
}

// discard gives the memory of s back.
func (s *Segment) discard(f *file) {
	if s.discarded {
		return
	}
	s.discarded = true // or as good as it gets
	if s.offset >= 0 {
		unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, s.offset, SegmentSize)
	} else {
		unix.Madvise(s.memory, unix.MADV_DONTNEED)
	}
}

// reserve makes the memory of s again, if it was given back.
func (s *Segment) reserve(f *file) error {
	if s.discarded && s.offset >= 0 {
		if err := f.allocate(s.offset); err != nil {
			return err
		}
		unix.Madvise(s.memory, unix.MADV_POPULATE_WRITE) // as in grow; older kernels do without
	}
	s.discarded = false
	return nil
}

// anonymous returns the memory of a segment that is in no file. It is not of
// the Go heap, so that it does not count where that is bounded.
func anonymous() []byte {
	memory, err := unix.Mmap(-1, 0, SegmentSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return make([]byte, SegmentSize) // as good, but for the accounts
	}
	return memory
}

func release(memory []byte) { unix.Munmap(memory) }
