package membership

import (
	"io"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// A state directory whose disk hangs costs no renewal: the claim is good past the
// horizon that it began with.
func TestDiskThatHangs(t *testing.T) {
	t.Parallel()
	state := newState(t, t.TempDir())
	hangs := filepath.Join(state.Dir(), memoryFile+".new") // a pipe that is full: writing waits for who reads
	if err := syscall.Mkfifo(hangs, 0o600); err != nil {
		t.Skip(err)
	}
	pipe, err := os.OpenFile(hangs, os.O_RDWR|syscall.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer pipe.Close()
	if err := pipe.SetWriteDeadline(time.Now().Add(100 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	if n, err := pipe.Write(make([]byte, 4<<20)); err == nil {
		t.Fatalf("the pipe took %d bytes", n)
	}
	h := start(t, newClient(t, sharedEtcd), testConfig(t), state)
	c := h.held(t)
	past := time.NewTimer(c.Left() + time.Second)
	<-past.C
	if got, ok := h.Current(); got != c || !ok {
		t.Errorf("past the horizon of the grant: claim %p good %v, want %p true", got, ok, c)
	}
	go io.Copy(io.Discard, pipe)
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
