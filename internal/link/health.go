package link

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"net"
	"strconv"
	"time"

	"github.com/prefixproxy/prefixproxy/internal/address"
)

// healthTime bounds a question.
const healthTime = time.Second

// AskHealth asks the statsd whose lines go to at how it is, by its management
// interface (statsd's docs/admin_interface.md: health answers "health: up").
func AskHealth(ctx context.Context, a address.Upstream, at string) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("ask its health: %w", err)
		}
	}()
	host, _, err := net.SplitHostPort(at)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, healthTime)
	defer cancel()
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", net.JoinHostPort(host, strconv.Itoa(a.Health)))
	if err != nil {
		return err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })()
	if _, err := conn.Write([]byte("health\n")); err != nil {
		return err
	}
	answer, err := bufio.NewReaderSize(conn, 256).ReadSlice('\n')
	if words := bytes.Fields(answer); err == nil && (len(words) != 2 || string(words[1]) != "up") {
		err = fmt.Errorf("it says %q", bytes.TrimSpace(answer))
	}
	return err
}
