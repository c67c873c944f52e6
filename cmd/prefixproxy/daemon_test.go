package main

import (
	"io/fs"
	"path/filepath"
	"strings"
	"testing"

	"github.com/prefixproxy/prefixproxy/internal/statedir"
)

// The hint for a state directory takes it away from nobody, and fits where we run.
func TestStateHint(t *testing.T) {
	there := t.TempDir()
	absent := filepath.Join(there, "absent")
	for _, tt := range []struct {
		name, dir string
		unit      bool
		err       error
		want      string
	}{
		{"another user's", there, false, statedir.ErrNotOurs, "give this one a membership.state_dir of its own"},
		{"may not be entered", there, false, fs.ErrPermission, "give this one a membership.state_dir of its own"},
		{"may not be made", absent, false, fs.ErrPermission, "or: sudo install -d -m 0700"},
		{"the unit's", defaultConfig().Membership.StateDir, true, statedir.ErrNotOurs, "or: sudo install -d -m 0700"},
		{"the unit forbids it", absent, true, fs.ErrPermission, "ReadWritePaths=" + absent},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if t.Setenv("RUNTIME_DIRECTORY", ""); tt.unit {
				t.Setenv("RUNTIME_DIRECTORY", "/run/prefixproxy:/run/prefixproxy-queue")
			}
			if got := stateHint(tt.dir, tt.err); !strings.Contains(got, tt.want) {
				t.Errorf("got %q, want %q in it", got, tt.want)
			}
		})
	}
}
