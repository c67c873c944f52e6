package inlet

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/prefixproxy/prefixproxy/internal/address"
	"github.com/prefixproxy/prefixproxy/internal/line"
	"github.com/prefixproxy/prefixproxy/internal/poll"
	"github.com/prefixproxy/prefixproxy/internal/pulse"
	"github.com/prefixproxy/prefixproxy/internal/sockets"
)

// smallBuffer is the size, in bytes, of a receive buffer below which input must not gather for long:
// an ordinary burst would overrun it.
const smallBuffer = 1 << 20

// A Listener is one bound socket. The reader that runs on it closes it.
type Listener struct {
	Protocol      line.Protocol
	Address       address.Address // with the port that was taken
	ReceiveBuffer int             // bytes granted to a socket of datagrams; 0 for streams
	Inherited     bool            // it lives on with whoever bound it

	asked  address.Address // as configured, with one of the hosts that localhost stands for; zero: by nobody yet
	at     address.Address // as the kernel tells it
	socket *poll.Socket
	file   sockets.File // of one that we have bound

	stop    context.CancelFunc // ends its readers; nil: there are none yet
	readers sync.WaitGroup     // of it, and of its connections
	pulse   pulse.Pulse        // of the loop that reads datagrams

	earlierDrops uint64       // of the datagrams that the kernel dropped, those before us
	open         atomic.Int64 // connections
}

// newListener makes a Listener of conn, a bound socket; the kernel says which. Nobody has asked
// for it yet. It takes conn and its file.
func newListener(poller *poll.Poller, conn poll.Conn, file sockets.File) (l *Listener, err error) {
	l = &Listener{file: file}
	fd, err := poll.Detach(conn)
	if err == nil {
		if err = l.identify(fd); err != nil {
			unix.Close(fd)
		} else {
			l.socket, err = poller.Own(fd)
		}
	}
	if err != nil {
		file.Remove()
	}
	return l, err
}

// identify finds out which socket it is, and sets what the kernel is to do for it.
func (l *Listener) identify(fd int) error {
	at, err := unix.Getsockname(fd)
	if err != nil {
		return err
	}
	kind, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TYPE)
	if err != nil {
		return err
	}
	networks := map[int]string{unix.SOCK_STREAM: "tcp", unix.SOCK_DGRAM: "udp"}
	if u, ok := at.(*unix.SockaddrUnix); ok {
		networks = map[int]string{unix.SOCK_STREAM: "unix", unix.SOCK_DGRAM: "unixgram"}
		l.at.Path = u.Name
	} else if a := addrPort(at); a.IsValid() {
		l.at.Host, l.at.Port = a.Addr().String(), int(a.Port())
	}
	l.at.Network = networks[kind]
	l.Address = l.at
	switch listens, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ACCEPTCONN); {
	case l.at.Network == "" || l.at.Path+l.at.Host == "":
		return errors.New("it is no stream and no datagrams, of IP or unix; a socket unit needs ListenStream= or ListenDatagram=")
	case l.IsStream() && listens == 0:
		return errors.Join(err, errors.New("it is no listening socket; a socket unit needs Accept=no"))
	case !l.IsStream():
		l.ReceiveBuffer, err = sockets.Grow(fd, 8<<20)
		l.earlierDrops, _ = sockets.Drops(fd) // where it is not known, it is not asked for later
		return err
	case !l.Address.IsUnix():
		return sockets.KeepAlive(fd)
	}
	return nil
}

// addrPort converts an address of an internet socket; that of another kind is not valid.
func addrPort(at unix.Sockaddr) netip.AddrPort {
	switch a := at.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(a.Addr), uint16(a.Port))
	case *unix.SockaddrInet6:
		ip := netip.AddrFrom16(a.Addr)
		if zone, err := net.InterfaceByIndex(int(a.ZoneId)); err == nil {
			ip = ip.WithZone(zone.Name)
		}
		return netip.AddrPortFrom(ip, uint16(a.Port))
	}
	return netip.AddrPort{}
}

// isMeant says whether the socket is the one that binding a would create. An empty host means
// any address of this machine, IPv6 or IPv4.
func (l *Listener) isMeant(ctx context.Context, a address.Address) bool {
	if l.at.Network != a.Network || l.at.Port != a.Port || l.at.Path != a.Path {
		return false
	}
	at, _ := netip.ParseAddr(l.at.Host)
	if a.IsUnix() || a.Host == "" {
		return a.IsUnix() || at.IsUnspecified()
	}
	means, _ := net.DefaultResolver.LookupIPAddr(ctx, a.Host)
	return slices.ContainsFunc(means, func(ip net.IPAddr) bool { return ip.String() == at.Unmap().String() })
}

// serves says whether the socket is the one asked for: as before or, if it is inherited, for
// the first time.
func (l *Listener) serves(ctx context.Context, s Spec) bool {
	if !l.isOurs() {
		return l.isMeant(ctx, s.Address)
	}
	return l.Protocol == s.Protocol && l.asked == s.Address && !l.file.IsLost()
}

// hasBegun says whether it is read.
func (l *Listener) hasBegun() bool { return l.stop != nil }

// isOurs says whether the socket has been asked for.
func (l *Listener) isOurs() bool { return l.asked.Network != "" }

// take assigns the socket to s.
func (l *Listener) take(s Spec) {
	l.Protocol, l.asked, l.Address = s.Protocol, s.Address, s.Address
	l.Address.Port = l.at.Port
}

// IsStream says whether the socket brings connections.
func (l *Listener) IsStream() bool { return l.Address.Network == "tcp" || l.Address.Network == "unix" }

// close closes our descriptor of the socket, and removes its path if it is ours.
func (l *Listener) close() {
	l.file.Remove()
	l.socket.Close()
}

// admitNoMore stops new connections, and sending to a unix socket, so that what has arrived can
// be read and nothing is lost between that and close. Over TCP, nobody gets in while somebody
// waits to be accepted: whoever tries will try again a second later, and then finds the port
// closed, or our successor. At the last moment one may still slip in.
func (l *Listener) admitNoMore() {
	l.file.Remove()
	switch l.Address.Network {
	case "tcp":
		unix.Listen(l.socket.FD(), 0)
	case "unixgram":
		unix.Shutdown(l.socket.FD(), unix.SHUT_RD) // senders are told: EPIPE
	}
}

// isSmall says whether the kernel granted too small a buffer for input to gather.
func (l *Listener) isSmall() bool {
	return l.Address.Network == "udp" && l.ReceiveBuffer < smallBuffer
}

// bears returns how long input may gather in the socket at most.
func (l *Listener) bears() time.Duration {
	switch {
	case l.Address.Network == "unixgram":
		return 0 // its queue holds ten datagrams, then the sender is blocked
	case l.isSmall():
		return time.Millisecond
	}
	return MaxCoalesce
}

// Connections returns how many connections of the socket are open.
func (l *Listener) Connections() int { return int(l.open.Load()) }

// KernelDrops returns how many datagrams the kernel has dropped at the socket since it is
// ours. It is an error if the kernel doesn't count them.
func (l *Listener) KernelDrops() (n uint64, err error) {
	if l.Address.Network != "udp" {
		return 0, errors.ErrUnsupported
	}
	err = l.socket.Use(func(fd int) (err error) {
		n, err = sockets.Drops(fd)
		return err
	})
	return n - l.earlierDrops, err
}
