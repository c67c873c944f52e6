package aggregate

import (
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

const (
	smallDisk = "AGGREGATE_TEST_SMALL_DISK"
	noMounts  = 77 // the exit code where nothing can be mounted
)

// A tmpfs fills up and has room again, at any moment, while processes are killed and stopped:
// each line that was counted is found by the next process, or known to be lost, and none
// counts twice.
func TestFullTmpfs(t *testing.T) {
	dir := os.Getenv(smallDisk)
	if dir == "" { // the test is in the mount namespace of a process of its own
		dir = t.TempDir()
		cmd := exec.Command(os.Args[0], "-test.run=^TestFullTmpfs$", fmt.Sprintf("-aggregate.schedules=%d", *schedules))
		cmd.Env = append(os.Environ(), smallDisk+"="+dir)
		cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
		out, err := cmd.CombinedOutput()
		if cmd.ProcessState == nil || cmd.ProcessState.ExitCode() == noMounts {
			t.Skipf("nothing can be mounted: %v\n%s", err, out)
		}
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		return
	}
	if err := syscall.Mount("none", dir, "tmpfs", 0, "size=48k"); err != nil {
		fmt.Println(err)
		os.Exit(noMounts)
	}
	defer func(step int) { baseStep = step }(baseStep)
	baseStep = 3
	for seed := range uint64(*schedules) {
		r := rand.New(rand.NewPCG(seed, 7))
		f := &full{t: t, random: r, dir: dir, dirs: []string{filepath.Join(dir, "memory"), t.TempDir()}, stored: map[string]int{}, sent: map[string]int{}}
		if r.IntN(3) == 0 {
			f.dirs[1] = filepath.Join(dir, "state")
		}
		if f.run(); t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
}

// A full is a run of TestFullTmpfs.
type full struct {
	t      *testing.T
	random *rand.Rand
	dir    string // the tmpfs
	dirs   []string
	*Aggregator
	now    time.Time
	stored map[string]int // by name and second; the last value counts
	sent   map[string]int // by name
	lost   int
}

func (f *full) run() {
	f.now = at(0)
	f.fill(-1)
	for _, dir := range f.dirs {
		os.RemoveAll(dir)
	}
	f.open()
	for i := range 300 {
		f.now = f.now.Add(time.Duration(f.random.IntN(1500)) * time.Millisecond)
		switch f.random.IntN(40) {
		case 0, 1, 2, 3:
			f.next(nil)
		case 4:
			if f.stop(); f.Lines() == 0 { // else the next process moves them to another slot, and may have no room to say so
				f.next(f.Close(f.dirs[1]))
			}
		case 5, 6, 7:
			if !f.IsFlushing() {
				f.beginBase()
			}
		case 8, 9, 10:
			f.fill(f.random.Int64N(6))
		case 11, 12, 13:
			f.fill(-1)
		}
		if f.IsOver(f.now) {
			f.flush(true)
			f.Seal(f.now)
		}
		f.flush(false)
		var lines []byte
		for range f.random.IntN(30) {
			name := fmt.Sprintf("%s%d", strings.Repeat("long.", 15), f.random.IntN(40+i/3))
			f.sent[name]++
			lines = fmt.Appendf(lines, "\x01.%s:1|c\n", name)
		}
		putAll(f.Aggregator, lines)
	}
	f.stop()
	f.judge()
}

// fill leaves so many pages of the tmpfs free; -1: all.
func (f *full) fill(pages int64) {
	path := filepath.Join(f.dir, "filler")
	os.Remove(path)
	file, err := os.Create(path)
	if err != nil || pages < 0 {
		os.Remove(path)
		return
	}
	defer file.Close()
	const page = 4096
	size := int64(0)
	for err == nil {
		_, err = file.WriteAt(make([]byte, page), size)
		size += page
	}
	file.Truncate(max(0, size-page-pages*page))
}

// open starts a process.
func (f *full) open() {
	a, err := Open(tenth(), f.dirs, f.now)
	if err != nil { // no directory can be made
		f.fill(-1)
		a = open(f.t, tenth(), f.now, f.dirs...)
	}
	f.Aggregator = a
	f.lost += a.Lost()
	if a.SetNamed(true, f.now); !a.IsFlushing() {
		a.Hold(f.now, "the same")
	}
}

// next starts the next process. err says what the one before knows to be lost.
func (f *full) next(err error) {
	before := f.Lines()
	f.journal.file.Close()
	f.open()
	missing := before - f.Lines() - f.Lost()
	if err != nil {
		f.lost += missing
	} else if missing != 0 {
		f.t.Errorf("of %d lines %d are found, and %d lost", before, f.Lines(), f.Lost())
	}
}

// stop flushes all there is.
func (f *full) stop() {
	f.flush(true)
	if f.HasBegun(f.now) {
		f.Seal(f.now)
	}
	f.flush(true)
}

func (f *full) flush(all bool) {
	for f.IsFlushing() && (all || f.random.IntN(3) > 0) {
		more := f.Take(1 + f.random.IntN(9))
		for line := range strings.Lines(string(f.Points(nil))) {
			point := strings.Fields(line)
			if name, counter := strings.CutSuffix(point[0], ".count"); counter {
				v, _ := strconv.Atoi(point[1])
				f.stored[name[2:]+" "+point[2]] = v
			}
		}
		if !more && (all || f.random.IntN(3) > 0) {
			f.Flushed()
		}
	}
}

func (f *full) judge() {
	got, sum, sent := map[string]int{}, 0, 0
	for key, v := range f.stored {
		name, _, _ := strings.Cut(key, " ")
		got[name] += v
		sum += v
	}
	for name, n := range f.sent {
		sent += n
		if got[name] > n {
			f.t.Errorf("%d of %q count, of %d", got[name], name, n)
		}
	}
	if sum += f.Lines(); sum < sent-f.lost {
		f.t.Errorf("%d lines count, of %d, and %d are known to be lost", sum, sent, f.lost)
	}
}
