//go:build unix && !linux

package proxy

import "golang.org/x/sys/unix"

// sendBatch is how many datagrams one system call moves.
const sendBatch = 1

// sendPackets sends datagrams on a connected socket.
type sendPackets struct{}

// send sends the datagrams, at most sendBatch, without waiting. It returns how
// many the kernel took, and an error only when it took none.
func (p *sendPackets) send(fd int, datagrams [][]byte) (int, error) {
	if err := unix.Send(fd, datagrams[0], unix.MSG_DONTWAIT); err != nil {
		return 0, err
	}
	return 1, nil
}
