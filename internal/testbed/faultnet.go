//go:build linux

package testbed

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"
)

// A faraway is a network namespace behind a pair of virtual Ethernet devices:
// a machine that can vanish without a word.
type faraway struct {
	t    testing.TB
	name string // of the namespace, and of our end of the pair
	host string // its address
}

var faraways atomic.Int32

// newFaraway makes a namespace that has an address of 198.18.0.0/15, which RFC
// 2544 keeps for tests. It needs root.
func newFaraway(t testing.TB) *faraway {
	t.Helper()
	needRoot(t, "a network namespace")
	lookPath(t, "ip", "iproute2")
	n := faraways.Add(1)
	subnet := freeSubnet(t, "198.18")
	f := &faraway{t: t, name: fmt.Sprintf("ppx%d-%d", os.Getpid(), n), host: subnet + ".2"}
	f.add()
	f.ip("link", "add", f.name, "type", "veth", "peer", "name", "far", "netns", f.name)
	f.ip("addr", "add", subnet+".1/24", "dev", f.name)
	f.ip("link", "set", f.name, "up")
	f.ip("-n", f.name, "addr", "add", f.host+"/24", "dev", "far")
	f.connect()
	return f
}

// add makes the namespace. Its end takes the devices with it.
func (f *faraway) add() {
	if out, err := exec.Command("ip", "netns", "add", f.name).CombinedOutput(); err != nil {
		f.t.Skipf("no network namespace can be made here: %v: %s", err, out)
	}
	f.t.Cleanup(func() { f.ip("netns", "del", f.name) })
}

// beyond makes a machine that is reached by way of f, which passes on packets of so many bytes
// there, at most; and says so to who sends a longer one that must not be cut up, if it tells.
func (f *faraway) beyond(mtu int, tells bool) *faraway {
	f.t.Helper()
	name, size := fmt.Sprintf("ppx%d-%d", os.Getpid(), faraways.Add(1)), strconv.Itoa(mtu)
	b := &faraway{t: f.t, name: name, host: freeSubnet(f.t, "198.18") + ".2"}
	b.add()
	f.ip("-n", f.name, "link", "add", "next", "mtu", size, "type", "veth", "peer", "name", "far", "mtu", size, "netns", b.name)
	f.ip("-n", f.name, "addr", "add", b.near()+"/24", "dev", "next")
	f.ip("-n", f.name, "link", "set", "next", "up")
	b.ip("-n", b.name, "addr", "add", b.host+"/24", "dev", "far")
	b.connect()
	b.ip("-n", b.name, "route", "add", "default", "via", b.near())
	b.ip("route", "add", b.host, "via", f.host)
	if !tells { // it does not know the way back, which is another one
		f.ip("-n", f.name, "route", "del", strings.TrimSuffix(f.host, "2")+"0/24", "dev", "far")
		b.ip("link", "add", "b"+b.name, "type", "veth", "peer", "name", "back", "netns", b.name)
		b.ip("addr", "add", f.near()+"/32", "dev", "b"+b.name)
		b.ip("link", "set", "b"+b.name, "up")
		b.ip("-n", b.name, "link", "set", "back", "up")
		b.ip("-n", b.name, "route", "add", f.near(), "dev", "back")
		anyWay := func(device string) error {
			return os.WriteFile("/proc/sys/net/ipv4/conf/"+device+"/rp_filter", []byte("2"), 0)
		}
		if err := errors.Join(anyWay("b"+b.name), b.inside(func() error { return anyWay("far") })); err != nil {
			f.t.Fatal(err)
		}
	}
	if err := f.inside(func() error {
		return errors.Join(os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0),
			os.WriteFile("/proc/sys/net/ipv4/conf/all/rp_filter", []byte("0"), 0),
			os.WriteFile("/proc/sys/net/ipv4/conf/far/rp_filter", []byte("0"), 0))
	}); err != nil {
		f.t.Fatal(err)
	}
	return b
}

// freeSubnet returns the first three numbers of a subnet that no other test on this
// machine has, until the test ends: who has it listens at a socket of that name. One that
// was killed leaves its devices behind.
func freeSubnet(t testing.TB, of string) string {
	t.Helper()
	here, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range rand.Perm(256) {
		subnet := fmt.Sprintf("%s.%d", of, n)
		if slices.ContainsFunc(here, func(a net.Addr) bool { return strings.HasPrefix(a.String(), subnet+".") }) {
			continue
		}
		if taken, err := net.Listen("unix", "@prefixproxy-"+subnet); err == nil {
			t.Cleanup(func() { taken.Close() })
			return subnet
		}
	}
	t.Fatalf("no subnet of %s is free", of)
	return ""
}

// near is our own address, as the machine sees it.
func (f *faraway) near() string { return strings.TrimSuffix(f.host, ".2") + ".1" }

// vanish makes everything that is sent to the machine disappear.
func (f *faraway) vanish() { f.ip("-n", f.name, "link", "set", "far", "down") }

// connect undoes vanish.
func (f *faraway) connect() { f.ip("-n", f.name, "link", "set", "far", "up") }

func (f *faraway) ip(args ...string) {
	f.t.Helper()
	if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
		f.t.Fatalf("ip %v: %v: %s", args, err, out)
	}
}

// inside does something in the namespace: what it listens on is there.
func (f *faraway) inside(do func() error) error {
	return insideNetwork(filepath.Join("/run/netns", f.name), do)
}

// insideNetwork does something in a network namespace.
func insideNetwork(path string, do func() error) error {
	done := make(chan error)
	go func() { done <- visitNetwork(path, do) }()
	return <-done
}

// visitNetwork is insideNetwork on the thread of its goroutine, which comes back: with a
// thread that ends, the kernel ends the programs that it started, if they asked for that
// (Pdeathsig).
func visitNetwork(path string, do func() error) error {
	away, err := os.Open(path)
	if err != nil {
		return err
	}
	defer away.Close()
	runtime.LockOSThread()
	home, err := os.Open("/proc/thread-self/ns/net")
	if err == nil {
		defer home.Close()
		err = unix.Setns(int(away.Fd()), unix.CLONE_NEWNET)
	}
	if err == nil {
		err = do()
		if back := unix.Setns(int(home.Fd()), unix.CLONE_NEWNET); back != nil {
			return errors.Join(err, back) // still locked: nobody else gets this thread
		}
	}
	runtime.UnlockOSThread()
	return err
}

// A smallDisk is a file system of its own that can be full.
type smallDisk struct {
	t   testing.TB
	dir string
}

// newSmallDisk mounts a file system of so many MiB. It needs root.
func newSmallDisk(t testing.TB, mib int) *smallDisk {
	t.Helper()
	needRoot(t, "a file system of its own")
	d := &smallDisk{t: t, dir: t.TempDir()}
	out, err := exec.Command("mount", "-t", "tmpfs", "-o", fmt.Sprintf("size=%dm,mode=0700", mib), "prefixproxy-testbed", d.dir).CombinedOutput()
	if err != nil {
		t.Skipf("no file system can be mounted here: %v: %s", err, out)
	}
	t.Cleanup(func() { exec.Command("umount", "--lazy", d.dir).Run() })
	return d
}

// fill takes all the room that is left.
func (d *smallDisk) fill() {
	d.t.Helper()
	file, err := os.Create(d.filler())
	if err != nil {
		d.t.Fatal(err)
	}
	defer file.Close()
	for block := make([]byte, 64<<10); err == nil; {
		_, err = file.Write(block)
	}
}

// clear gives it back.
func (d *smallDisk) clear() {
	d.t.Helper()
	if err := os.Remove(d.filler()); err != nil {
		d.t.Fatal(err)
	}
}

func (d *smallDisk) filler() string { return filepath.Join(d.dir, "filler") }
