package sidebyside

import (
	"runtime"
	"testing"
)

// A port that a test has got is no other's, in a process that knows nothing of it either.
func TestPortsAreApart(t *testing.T) {
	port := FreePort(t)
	if reserve(port) {
		t.Errorf("port %d was given twice", port)
	}
	l, _ := reserved.LoadAndDelete(port) // as another process would find it
	defer reserved.Store(port, l)
	if runtime.GOOS == "linux" && reserve(port) {
		t.Errorf("port %d was given twice, as by two processes", port)
	}
}
