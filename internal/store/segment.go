package store

import (
	"os"
	"path/filepath"

	"github.com/prefixproxy/prefixproxy/internal/records"
	"github.com/prefixproxy/prefixproxy/internal/statedir"
)

// A segment is a file, a part of a log. The store's mutex guards it.
type segment struct {
	records.Header
	end records.Place // behind its last record

	entry
	begun  bool // by this process
	onDisk bool // in the second tier
	sealed bool // no more is appended
	needed bool // of sweep
	gone   bool // nobody needs it, and others may be in its place
}

// An entry is where a file is.
type entry struct {
	file *os.File      // nil: on disk, and opened when it is read
	dir  *statedir.Dir // nil: it has no name, and ends with the process
	name string
}

// path shows people where the file is.
func (e entry) path() string {
	if e.dir == nil {
		return "memory"
	}
	return filepath.Join(e.dir.Path(), e.name)
}

func (g *segment) span() records.Span { return records.Between(g.Base, g.end) }

// size returns the bytes of the file.
func (g *segment) size() int64 { return records.HeaderSize + g.span().Bytes() }

// full is the reason for dropping lines where the segment is.
func (g *segment) full() Reason {
	if g.onDisk {
		return SpoolFull
	}
	return QueueFull
}
