package inlet

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"

	"github.com/prefixproxy/prefixproxy/internal/address"
	"github.com/prefixproxy/prefixproxy/internal/poll"
)

// ErrUnwantedSocket says that a socket was handed to us, at the start or later, for an address
// at which nothing is to listen: whoever sends there would wait for nobody.
var ErrUnwantedSocket = errors.New("systemd keeps a socket for it, and no listener is configured there")

// openInherited makes Listeners of bound sockets that a supervisor holds as well. They outlive
// us, and what reaches them meanwhile waits for our successor. It takes the descriptors; the
// listeners wait to be asked for.
func openInherited(poller *poll.Poller, files []*os.File) (open []*Listener, err error) {
	for _, f := range files {
		l, oneErr := newListener(poller, f)
		if oneErr != nil {
			err = errors.Join(err, fmt.Errorf("passed descriptor %s: %w", f.Name(), oneErr))
			continue
		}
		l.Inherited = true
		open = append(open, l)
	}
	return open, err
}

// isMeant says whether the socket is the one that binding a would create. An empty host means
// any address of this machine, IPv6 or IPv4.
func (l *Listener) isMeant(a address.Address) bool {
	if l.at.Network != a.Network || l.at.Port != a.Port || l.at.Path != a.Path {
		return false
	}
	means, err := net.ResolveTCPAddr("tcp", a.HostPort())
	at, _ := netip.ParseAddr(l.at.Host)
	return a.IsUnix() || a.Host == "" && at.IsUnspecified() || err == nil && means.AddrPort().Addr().Unmap() == at.Unmap()
}
