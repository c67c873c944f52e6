//go:build unix

package statedir

import (
	"fmt"
	"io/fs"
	"os"
	"syscall"
)

// names returns how many names a file has.
func names(info fs.FileInfo) uint64 { return uint64(info.Sys().(*syscall.Stat_t).Nlink) }

// check says whether a directory is ours alone.
func check(dir fs.FileInfo) error {
	if owner := dir.Sys().(*syscall.Stat_t).Uid; int(owner) != os.Geteuid() {
		return fmt.Errorf("%w (uid %d, and we are %d)", ErrNotOurs, owner, os.Geteuid())
	}
	if dir.Mode().Perm()&0o022 != 0 {
		return fmt.Errorf("%w (mode %#o)", ErrOpenToOthers, dir.Mode().Perm())
	}
	return nil
}
