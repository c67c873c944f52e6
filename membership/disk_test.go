package membership

import (
	"os"
	"path/filepath"
	"testing"
	"time"
)

// A state directory whose disk hangs costs no renewal: the claim is good past the
// horizon that it began with.
func TestDiskThatHangs(t *testing.T) {
	t.Parallel()
	state := newState(t, t.TempDir())
	state.writing.Lock() // a write that has begun does not end
	h := start(t, newClient(t, sharedEtcd), testConfig(t), state)
	c := h.held(t)
	past := time.NewTimer(c.Left() + time.Second)
	<-past.C
	if got, ok := h.Current(); got != c || !ok {
		t.Errorf("past the horizon of the grant: claim %p good %v, want %p true", got, ok, c)
	}
	state.writing.Unlock()
	h.stop()
}

// The state of an earlier version, which was two files, is understood.
func TestOldStateDirectory(t *testing.T) {
	state := newState(t, t.TempDir())
	if err := state.write(memoryFile, memory{Pool: "default", Name: "Denali", Place: state.place}); err != nil {
		t.Fatal(err)
	}
	old := ownTenures{Pool: "default", Place: state.place, Tenures: []ownTenure{{Name: "Denali", Record: "1795386417123-1", Start: 1, End: 2}}}
	if err := state.write(oldTenuresFile, old); err != nil {
		t.Fatal(err)
	}
	for range 2 { // as it was, and as it is saved now
		m, own, err := state.load("default")
		if err != nil || m == nil || m.Name != "Denali" || len(own) != 1 || own[0] != old.Tenures[0] {
			t.Fatalf("got %+v, %+v (%v); want Denali, and %+v", m, own, err, old.Tenures)
		}
		if err := state.save(*m, own); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := os.Stat(filepath.Join(state.Dir(), oldTenuresFile)); err == nil {
		t.Error("the old file is still there")
	}
}
