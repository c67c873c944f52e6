package proxy

import (
	"fmt"
	"strconv"
	"time"

	"github.com/prefixproxy/prefixproxy/internal/outlet"
)

// Status is a snapshot of the data path, in the form of /status.json.
type Status struct {
	Listeners []ListenerStatus `json:"listeners"`
	Upstreams []UpstreamStatus `json:"upstreams"`

	// Lines are the books by protocol: "statsd", "carbon". With several
	// destinations, Carbon's are those of the first.
	Lines map[string]Books `json:"lines"`

	// Destinations are those of Carbon. One that a reload removed comes last.
	Destinations []DestinationStatus `json:"destinations"`

	// What only the metrics and the page have: how much waits in each queue, in bytes; datagrams that
	// the kernel dropped; and how often new connections had to wait.
	Bounds         []Bound `json:"-"`
	KernelDrops    uint64  `json:"-"`
	AcceptsDelayed uint64  `json:"-"`
}

// A Bound is how full the queue of a protocol is, or of one destination of Carbon, and
// its spool.
type Bound struct {
	Protocol, Destination string
	Queue, QueueLimit     int64
	Spool, SpoolLimit     int64     // 0 for StatsD
	Oldest                time.Time // arrival of the oldest line on disk; zero: there is none
}

// DestinationStatus is the account of one destination of Carbon. Received counts from
// when it was one.
type DestinationStatus struct {
	Name  string `json:"name"` // "" where it has none
	Lines Books  `json:"lines"`
}

// ListenerStatus describes one bound socket.
type ListenerStatus struct {
	Protocol      string `json:"protocol"`
	Address       string `json:"address"`        // with the port that was taken
	ReceiveBuffer int    `json:"receive_buffer"` // bytes granted to a datagram socket; 0 for streams
}

// UpstreamStatus describes one address of a failover list.
type UpstreamStatus struct {
	Protocol    string    `json:"protocol"`
	Destination string    `json:"destination"` // its name; "" where it has none
	Address     string    `json:"address"`     // as configured
	Resolved    string    `json:"resolved"`    // the address connected to; "" while there is none
	Up          bool      `json:"up"`          // it is used, and works
	Since       time.Time `json:"since"`       // it has been up, or not
	Reason      string    `json:"reason"`      // why it is not used; "" while up
}

// IsSpare says whether it is not used because an earlier address works.
func (u UpstreamStatus) IsSpare() bool { return !u.Up && u.Reason == outlet.Spare }

// Books is the account of one protocol's lines, taken at one instant:
//
//	Received + Adopted = Forwarded + Σ Dropped + Queued + Spooled
type Books struct {
	Received  uint64            `json:"received"`
	Adopted   uint64            `json:"adopted"`
	Forwarded uint64            `json:"forwarded"`
	Resent    uint64            `json:"resent"`
	Queued    uint64            `json:"queued"`
	Spooled   uint64            `json:"spooled"`
	Dropped   map[string]uint64 `json:"dropped"` // by reason; reasons without lines are absent
}

// A BadLine is one refused line, kept for a person to look at.
type BadLine struct {
	Time     time.Time
	Protocol string
	Reason   string
	Peer     string // address of the sender, or "" where the socket has none
	Line     []byte // its first 200 bytes
}

// String gives the line quoted, after when, from whom and why. The peer is quoted, too,
// since a client chooses the path to which it binds.
func (b BadLine) String() string {
	peer := "-"
	if b.Peer != "" {
		peer = strconv.Quote(b.Peer)
	}
	return fmt.Sprintf("%s %s %s %s %q", b.Time.UTC().Format(time.RFC3339), b.Protocol, b.Reason, peer, b.Line)
}
