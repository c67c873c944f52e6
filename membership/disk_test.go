package membership

import (
	"testing"

	"github.com/prefixproxy/prefixproxy/internal/statedir"
	"github.com/prefixproxy/prefixproxy/membership/state"
)

// hanging are files whose writing takes until a moment.
type hanging struct {
	*statedir.Dir
	until chan struct{}
}

func (h hanging) WriteFile(name string, data []byte) error {
	<-h.until
	return h.Dir.WriteFile(name, data)
}

// A state directory whose disk hangs costs no renewal: the claim is good past the
// horizon that it began with.
func TestDiskThatHangs(t *testing.T) {
	t.Parallel()
	dir, err := statedir.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	disk := hanging{dir, make(chan struct{})}
	h := start(t, newClient(t, sharedEtcd), testConfig(t), state.New(disk, state.Place{}))
	c := h.held(t)
	h.pass(c.Left())
	if got := h.held(t); got != c {
		t.Errorf("past the horizon of the grant: claim %p, want %p", got, c)
	}
	close(disk.until)
	h.stop()
}
