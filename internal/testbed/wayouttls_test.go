//go:build linux

package testbed

import (
	"crypto/tls"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"
)

// What may go wrong on a connection with TLS.
var tlsScenarios = []scenario{
	{"tls", func(t *testing.T) { tlsWorks(t, "carbon") }},
	{"tls to a statsd", func(t *testing.T) { tlsWorks(t, "statsd") }},
	{"tls with a client's certificate", tlsWithClientCertificate},
	{"tls with another server name", tlsWithServerName},
	{"tls by a foreign authority", func(t *testing.T) {
		ca, foreign := newAuthority(t), newAuthority(t)
		tlsIsRefused(t, foreign.issue("127.0.0.1", time.Hour).server(t, nil), trust(ca), "unknown authority")
	}},
	{"tls with an expired certificate", func(t *testing.T) {
		ca := newAuthority(t)
		tlsIsRefused(t, ca.issue("127.0.0.1", -time.Hour).server(t, nil), trust(ca), "expired")
	}},
	{"tls with a wrong name", func(t *testing.T) {
		ca := newAuthority(t)
		tlsIsRefused(t, ca.issue("127.0.0.2", time.Hour).server(t, nil), trust(ca), "127.0.0.2")
	}},
	{"tls before 1.2", func(t *testing.T) {
		ca := newAuthority(t)
		server := ca.issue("127.0.0.1", time.Hour).server(t, nil)
		server.MinVersion, server.MaxVersion = tls.VersionTLS10, tls.VersionTLS11
		tlsIsRefused(t, server, trust(ca), "protocol version")
	}},
	{"tls without the client's certificate", func(t *testing.T) {
		ca := newAuthority(t)
		tlsIsRefused(t, ca.issue("127.0.0.1", time.Hour).server(t, ca), trust(ca), "certificate required")
	}},
	{"tls with the client's certificate expired", func(t *testing.T) {
		ca := newAuthority(t)
		client := ca.issue("homer", -time.Hour)
		tlsIsRefused(t, ca.issue("127.0.0.1", time.Hour).server(t, ca), trustAs(ca, client), "expired certificate")
	}},
	{"tls with rotated files", tlsRotates},

	{"a server with tls hangs up", func(t *testing.T) { tlsHangsUp(t, manner{HangUp: 300 * time.Millisecond}) }},
	{"a server with tls resets", func(t *testing.T) { tlsHangsUp(t, manner{HangUp: 300 * time.Millisecond, Reset: true}) }},
	{"a server with tls ends in mid-record", func(t *testing.T) { tlsIsCut(t, false) }},
	{"a server with tls resets in mid-record", func(t *testing.T) { tlsIsCut(t, true) }},
	{"a server with tls is killed with what it has not read", tlsIsKilled},
	{"a server with tls pauses", tlsPauses},
	{"the first of two never shakes hands", tlsNeverShakesHands},
	{"the first of two shakes hands slowly, the second refuses", tlsShakesHandsSlowly},
}

// trust is the configuration of TLS with an authority, trustAs also with a
// client's certificate.
func trust(ca *authority) string { return fmt.Sprintf("tls: {ca: %q}", ca.file) }

func trustAs(ca *authority, client keyPair) string {
	return fmt.Sprintf("tls: {ca: %q, cert: %q, key: %q}", ca.file, client.cert, client.key)
}

// startTLS starts a receiver with TLS, and a daemon that sends Carbon lines to
// it and trusts it.
func startTLS(t *testing.T, m manner, replay string) (*receiver, *wayOut) {
	ca := newAuthority(t)
	server := startReceiver(t, receiverSpec{TLS: ca.issue("127.0.0.1", time.Hour).server(t, nil)}, m)
	w := startWayOut(t, daemonPlan{carbon: to(server.URL) + ", " + trust(ca), replay: replay})
	w.counts(server)
	return server, w
}

func tlsWorks(t *testing.T, protocol string) {
	ca := newAuthority(t)
	server := startReceiver(t, receiverSpec{TLS: ca.issue("127.0.0.1", time.Hour).server(t, nil)}, manner{})
	p := plan(protocol, server.URL)
	for _, upstreams := range []*string{&p.carbon, &p.statsd} {
		if *upstreams != "" {
			*upstreams += ", " + trust(ca)
		}
	}
	w := startWayOut(t, p)
	w.counts(server)
	w.send(protocol, 10_000, 20_000)
	w.awaitDelivered(protocol)
	w.awaitArrivals(protocol, 20_000)
	w.arrivesInOrder(server, 20_000)
}

func tlsWithClientCertificate(t *testing.T) {
	ca := newAuthority(t)
	server := startReceiver(t, receiverSpec{TLS: ca.issue("127.0.0.1", time.Hour).server(t, ca)}, manner{})
	w := startWayOut(t, daemonPlan{carbon: to(server.URL) + ", " + trustAs(ca, ca.issue("homer", time.Hour))})
	w.counts(server)
	w.send("carbon", 1000, 100)
	w.awaitDelivered("carbon")
}

func tlsWithServerName(t *testing.T) {
	ca := newAuthority(t)
	server := startReceiver(t, receiverSpec{TLS: ca.issue("graphite.test", time.Hour).server(t, nil)}, manner{})
	w := startWayOut(t, daemonPlan{carbon: to(server.URL) + fmt.Sprintf(", tls: {ca: %q, server_name: graphite.test}", ca.file)})
	w.counts(server)
	w.send("carbon", 1000, 100)
	w.awaitDelivered("carbon")
}

// tlsIsRefused: no line leaves, the second of the list is used, and the status and
// the log say why.
func tlsIsRefused(t *testing.T, server *tls.Config, config, reason string) {
	first, second := startReceiver(t, receiverSpec{TLS: server}, manner{}), startSink(t)
	w := startWayOut(t, daemonPlan{carbon: to(first.URL, second.URL) + ", " + config})
	w.counts(second)
	w.send("carbon", 100, 300)
	w.awaitUp(second.URL)
	w.awaitDelivered("carbon")
	if n := len(first.Lines()); n > 0 {
		t.Errorf("%d lines went there all the same", n)
	}
	if u, err := w.upstream(first.URL); err != nil || !strings.Contains(u.Reason, reason) {
		t.Errorf("the status says of it %+v (%v), want a reason with %q", u, err, reason)
	}
	w.awaitSaid(first.Addr, reason)
	w.saidOnce(first.Addr)
}

// tlsRotates: the files are read at each connection.
func tlsRotates(t *testing.T) {
	old, next := newAuthority(t), newAuthority(t)
	server := startReceiver(t, receiverSpec{TLS: old.issue("127.0.0.1", time.Hour).server(t, old)}, manner{})
	client := old.issue("homer", time.Hour)
	w := startWayOut(t, daemonPlan{carbon: to(server.URL) + ", " + trustAs(old, client)})
	w.counts(server)
	w.send("carbon", 1000, 100)
	w.awaitArrivals("carbon", 100)

	server.Behave(manner{Refuse: true})
	server.server.mu.Lock()
	server.server.spec.TLS = next.issue("127.0.0.1", time.Hour).server(t, next)
	server.server.mu.Unlock()
	renewed := next.issue("homer", time.Hour)
	for _, files := range [][2]string{{next.file, old.file}, {renewed.cert, client.cert}, {renewed.key, client.key}} {
		if err := os.Rename(files[0], files[1]); err != nil {
			t.Fatal(err)
		}
	}
	server.Behave(manner{})
	w.send("carbon", 1000, 100)
	w.awaitDelivered("carbon")
	w.awaitArrivals("carbon", 200)
}

// tlsHangsUp: as without TLS.
func tlsHangsUp(t *testing.T, m manner) {
	m.Lose = true
	server, w := startTLS(t, m, "4KiB")
	w.sendFor("carbon", 2000, 5*time.Second)
	server.Behave(manner{})
	w.awaitDelivered("carbon")
	w.saidOnce(server.Addr)
}

// tlsIsCut: what came of a record that is not whole is no line.
func tlsIsCut(t *testing.T, reset bool) {
	server, w := startTLS(t, manner{}, "256KiB")
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		w.sendFor("carbon", 2000, 4*time.Second)
	}()
	for cut := 5000; ; cut += 7777 {
		server.Behave(manner{CutAfter: cut, Reset: reset})
		came := server.Connections()
		if !w.within(6*time.Second, func() bool { return server.Connections() > came || isClosed(sent) }) {
			t.Fatal("no connection comes")
		}
		if isClosed(sent) {
			break
		}
	}
	server.Behave(manner{})
	w.awaitDelivered("carbon")
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// tlsIsKilled: what its kernel had acknowledged, and it had not read, is sent
// again.
func tlsIsKilled(t *testing.T) {
	server, w := startTLS(t, manner{}, "4MiB")
	for range 3 {
		w.awaitUp(server.URL)
		server.Behave(manner{Stall: true})
		w.sendFor("carbon", 20_000, time.Second)
		server.Behave(manner{Refuse: true, Reset: true})
		server.Behave(manner{})
	}
	w.awaitDelivered("carbon")
}

// tlsPauses: the connection stays.
func tlsPauses(t *testing.T) {
	server, w := startTLS(t, manner{}, "4MiB")
	w.send("carbon", 1000, 100)
	w.awaitArrivals("carbon", 100)
	server.Behave(manner{Stall: true})
	w.sendFor("carbon", 20_000, 6*time.Second)
	server.Behave(manner{})
	w.awaitDelivered("carbon")
	if n := server.Connections(); n != 1 {
		t.Errorf("%d connections came, want one that lasts", n)
	}
}

// tlsNeverShakesHands: it accepts connections, and says nothing.
func tlsNeverShakesHands(t *testing.T) {
	ca := newAuthority(t)
	first, second := startReceiver(t, receiverSpec{TLS: &tls.Config{}}, manner{Stall: true}), startSink(t)
	w := startWayOut(t, daemonPlan{carbon: to(first.URL, second.URL) + ", " + trust(ca)})
	w.counts(second)
	w.send("carbon", 100, 300)
	w.awaitUp(second.URL)
	w.isUnused(first)
	w.awaitDelivered("carbon")
	w.awaitSaid(first.Addr, "handshake was not answered within")
	w.saidOnce(first.Addr)
}

// tlsShakesHandsSlowly: it is waited for.
func tlsShakesHandsSlowly(t *testing.T) {
	ca := newAuthority(t)
	config := ca.issue("127.0.0.1", time.Hour).server(t, nil)
	config.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) {
		<-time.After(4 * time.Second)
		return nil, nil
	}
	first, second := startReceiver(t, receiverSpec{TLS: config}, manner{}), startReceiver(t, receiverSpec{}, manner{Refuse: true})
	w := startWayOut(t, daemonPlan{carbon: to(first.URL, second.URL) + ", " + trust(ca)})
	w.counts(first)
	w.send("carbon", 1000, 100)
	w.awaitDelivered("carbon")
	w.awaitArrivals("carbon", 100)
}
