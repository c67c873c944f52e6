//go:build linux

package testbed

import (
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/sys/unix"
)

// A nowhere is a network on which nobody is: what is sent to its addresses
// disappears, or is refused after a while, as by a host that is far away. It is a
// tun device that this process answers for.
type nowhere struct {
	here   string // our own address on it
	silent string // one of which nothing is ever heard
	late   string // one whose UDP ports are refused, after delay
	delay  time.Duration
	device *os.File
}

// newNowhere makes a network of 198.19.0.0/16, which RFC 2544 keeps for tests. It
// needs root.
func newNowhere(t testing.TB, delay time.Duration) *nowhere {
	t.Helper()
	needRoot(t, "a network of its own")
	lookPath(t, "ip", "iproute2")
	n := faraways.Add(1)
	subnet := freeSubnet(t, "198.19")
	w := &nowhere{here: subnet + ".1", silent: subnet + ".2", late: subnet + ".3", delay: delay}
	name := fmt.Sprintf("ppxn%d-%d", os.Getpid()%100_000, n)
	if err := w.open(name); err != nil {
		t.Skipf("no tun device can be made here: %v", err)
	}
	var answering sync.WaitGroup
	answering.Go(w.answer)
	t.Cleanup(func() {
		w.device.Close()
		answering.Wait()
	})
	for _, args := range [][]string{{"addr", "add", w.here + "/24", "dev", name}, {"link", "set", name, "up"}} {
		if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
			t.Fatalf("ip %v: %v: %s", args, err, out)
		}
	}
	return w
}

// open makes the device.
func (w *nowhere) open(name string) error {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	request, err := unix.NewIfreq(name)
	if err != nil {
		return err
	}
	request.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, request); err != nil {
		unix.Close(fd)
		return err
	}
	w.device = os.NewFile(uintptr(fd), name)
	return nil
}

// answer refuses what is to be refused, until the device is closed.
func (w *nowhere) answer() {
	packet := make([]byte, 64<<10)
	for {
		n, err := w.device.Read(packet)
		if err != nil {
			return
		}
		if refusal := w.refuse(packet[:n]); refusal != nil {
			time.AfterFunc(w.delay, func() { w.device.Write(refusal) })
		}
	}
}

// refuse returns the answer to a packet: an ICMP "port unreachable"; nil: none.
func (w *nowhere) refuse(packet []byte) []byte {
	const udp = 17
	head, err := ipv4.ParseHeader(packet)
	if err != nil || head.Version != 4 || head.Protocol != udp || head.Dst.String() != w.late {
		return nil
	}
	message := icmp.Message{Type: ipv4.ICMPTypeDestinationUnreachable, Code: 3, Body: &icmp.DstUnreach{Data: packet[:head.Len+8]}}
	body, err := message.Marshal(nil)
	if err != nil {
		return nil
	}
	from, to := netip.MustParseAddr(w.late).As4(), netip.MustParseAddr(w.here).As4()
	answer := ipv4.Header{Version: 4, Len: ipv4.HeaderLen, TotalLen: ipv4.HeaderLen + len(body), TTL: 64, Protocol: 1, Src: from[:], Dst: to[:]}
	raw, err := answer.Marshal()
	if err != nil {
		return nil
	}
	sum := checksum(raw)
	raw[10], raw[11] = byte(sum>>8), byte(sum)
	return append(raw, body...)
}

// checksum is that of an IP header: RFC 1071.
func checksum(head []byte) uint16 {
	var sum uint32
	for i := 0; i+1 < len(head); i += 2 {
		sum += uint32(head[i])<<8 | uint32(head[i+1])
	}
	for sum>>16 > 0 {
		sum = sum&0xffff + sum>>16
	}
	return ^uint16(sum)
}
