package etcd

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.etcd.io/etcd/client/pkg/v3/transport"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"google.golang.org/grpc"

	"github.com/prefixproxy/prefixproxy/internal/devetcd"
	"github.com/prefixproxy/prefixproxy/internal/devetcd/devetcdtest"
	"github.com/prefixproxy/prefixproxy/internal/sidebyside"
)

// An authority signs certificates for tests.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: "authority"}, SubjectKeyId: []byte{byte(time.Now().UnixNano())},
		NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return authority{cert, key}
}

// sign returns a certificate for a name or an address, or "" for neither, good until then.
func (a authority) sign(t *testing.T, host string, until time.Time) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: host},
		NotBefore: time.Now().Add(-48 * time.Hour), NotAfter: until,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	if ip := net.ParseIP(host); ip != nil {
		template.IPAddresses = []net.IP{ip}
	} else if host != "" {
		template.DNSNames = []string{host}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, &key.PublicKey, a.key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func (a authority) pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(a.cert)
	return pool
}

// writePEM writes blocks to a file of dir.
func writePEM(t *testing.T, dir, name, kind string, der []byte) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// startTLS starts an etcd that shows own; if clients is not nil, it wants
// certificates that this one signed.
func startTLS(t *testing.T, own tls.Certificate, clients *authority) *devetcd.Server {
	t.Helper()
	dir := sidebyside.MemoryDir(t)
	secret, err := x509.MarshalPKCS8PrivateKey(own.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	info := transport.TLSInfo{CertFile: writePEM(t, dir, "cert", "CERTIFICATE", own.Certificate[0]), KeyFile: writePEM(t, dir, "key", "PRIVATE KEY", secret), SkipClientSANVerify: true}
	if clients != nil {
		info.ClientCertAuth, info.TrustedCAFile = true, writePEM(t, dir, "ca", "CERTIFICATE", clients.cert.Raw)
	}
	server, err := devetcd.StartWith(filepath.Join(dir, "data"), func(cfg *embed.Config) {
		cfg.ClientTLSInfo = info
		cfg.ListenClientUrls[0].Scheme, cfg.AdvertiseClientUrls[0].Scheme = "https", "https"
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Close)
	return server
}

func newClientOf(t *testing.T, cfg Config) *Client {
	t.Helper()
	c, err := New(cfg, grpc.WithChainUnaryInterceptor(devetcdtest.Patiently))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// Each thing that can be wrong with certificates, schemes, users is said in words
// of its own, with what to do.
func TestCauses(t *testing.T) {
	t.Parallel()
	ca, other := newAuthority(t), newAuthority(t)
	tomorrow, yesterday := time.Now().Add(24*time.Hour), time.Now().Add(-24*time.Hour)
	good := ca.sign(t, "127.0.0.1", tomorrow)
	trusts := func(a authority, own ...tls.Certificate) func() (*tls.Config, error) {
		return func() (*tls.Config, error) { return &tls.Config{RootCAs: a.pool(), Certificates: own}, nil }
	}
	plain := devetcdtest.Start(t)
	users := devetcdtest.Start(t)
	devetcdtest.EnableUsers(t, newClientOf(t, Config{Endpoints: []string{users.Endpoint()}}).Client)
	root := newClientOf(t, Config{Endpoints: []string{users.Endpoint()}, Username: "root", Password: func() (string, error) { return "r", nil }})
	if _, err := root.UserAdd(t.Context(), "nobody", "n"); err != nil {
		t.Fatal(err)
	}
	wantsTLS := startTLS(t, good, nil)
	wantsOurs := startTLS(t, good, &ca)
	closes, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closes.Close() })
	go func() {
		for conn, err := closes.Accept(); err == nil; conn, err = closes.Accept() {
			conn.Close()
		}
	}()
	http := httptest.NewServer(nil)
	t.Cleanup(http.Close)
	handshakes := func(cfg *tls.Config) string {
		cfg.Certificates = []tls.Certificate{good}
		l, err := tls.Listen("tcp", "127.0.0.1:0", cfg)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.Close() })
		go func() {
			for conn, err := l.Accept(); err == nil; conn, err = l.Accept() {
				go conn.(*tls.Conn).Handshake()
			}
		}()
		return "https://" + l.Addr().String()
	}
	endpoint := func(s *devetcd.Server, scheme string) string {
		return scheme + strings.TrimPrefix(s.Endpoint(), "http")
	}
	password := func(p string) func() (string, error) { return func() (string, error) { return p, nil } }
	for _, test := range []struct {
		name       string
		cfg        Config
		what, hint string
	}{
		{"expired", Config{Endpoints: []string{endpoint(startTLS(t, ca.sign(t, "127.0.0.1", yesterday), nil), "https")}, TLS: trusts(ca)}, "its certificate has expired", "openssl s_client -connect 127.0.0.1:"},
		{"wrong authority", Config{Endpoints: []string{endpoint(wantsTLS, "https")}, TLS: trusts(other)}, "signed by an unknown authority", "etcd.tls.ca"},
		{"wrong name", Config{Endpoints: []string{endpoint(startTLS(t, ca.sign(t, "etcd.example.net", tomorrow), nil), "https")}, TLS: trusts(ca)}, "for another name", "etcd.endpoints"},
		{"a name as Common Name alone", Config{Endpoints: []string{endpoint(startTLS(t, ca.sign(t, "", tomorrow), nil), "https")}, TLS: trusts(ca)}, "only as Common Name", "subjectAltName"},
		{"http for https", Config{Endpoints: []string{endpoint(wantsTLS, "http")}}, "it speaks https", "https://"},
		{"http for https, and a member is down", Config{Endpoints: []string{endpoint(wantsTLS, "http"), endpoint(wantsOurs, "http"), "127.0.0.1:1"}}, "it speaks https", "https://"},
		{"wrong authority, and a member is down", Config{Endpoints: []string{endpoint(wantsTLS, "https"), endpoint(wantsOurs, "https"), "https://127.0.0.1:1"}, TLS: trusts(other)}, "signed by an unknown authority", "etcd.tls.ca"},
		{"https for http", Config{Endpoints: []string{"https" + strings.TrimPrefix(http.URL, "http")}, TLS: trusts(ca)}, "it does not speak https", "http://"},
		{"https for an etcd without TLS", Config{Endpoints: []string{endpoint(plain, "https")}, TLS: trusts(ca)}, "closes every connection", "http://"},
		{"https, and a balancer without etcd", Config{Endpoints: []string{"https://" + closes.Addr().String()}, TLS: trusts(ca)}, "closes every connection", "balancer"},
		{"no certificate of ours", Config{Endpoints: []string{endpoint(wantsOurs, "https")}, TLS: trusts(ca)}, "it requires a client certificate", "etcd.tls.cert"},
		{"our certificate expired", Config{Endpoints: []string{endpoint(wantsOurs, "https")}, TLS: trusts(ca, ca.sign(t, "us", yesterday))}, "our certificate has expired", "etcd.tls.cert"},
		{"our certificate of another authority", Config{Endpoints: []string{endpoint(wantsOurs, "https")}, TLS: trusts(ca, other.sign(t, "us", tomorrow))}, "the authority that signed our certificate", "--trusted-ca-file"},
		{"another server than etcd", Config{Endpoints: []string{handshakes(&tls.Config{NextProtos: []string{"http/1.1"}})}, TLS: trusts(ca)}, "this is not etcd", "--listen-client-urls"},
		{"old versions of TLS", Config{Endpoints: []string{handshakes(&tls.Config{MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11})}, TLS: trusts(ca)}, "it refuses the TLS connection", "--tls-max-version"},
		{"our files are gone", Config{Endpoints: []string{endpoint(wantsOurs, "https")}, TLS: func() (*tls.Config, error) { return nil, os.ErrNotExist }}, "our certificate or password files", "prefixproxy check"},
		{"wrong password", Config{Endpoints: []string{users.Endpoint()}, Username: "prefixproxy", Password: password("q"), Etcdctl: "etcdctl --user=prefixproxy"}, "wrong user name or password", "etcdctl --user=prefixproxy get"},
		{"no user", Config{Endpoints: []string{users.Endpoint()}}, "it requires a user", "etcd.username"},
		{"no role", Config{Endpoints: []string{users.Endpoint()}, Username: "nobody", Password: password("n"), Etcdctl: "etcdctl --user=nobody"}, "no role that allows it", "etcdctl --user=root role grant-permission"},
		{"a balancer without etcd", Config{Endpoints: []string{closes.Addr().String()}}, "closes every connection", "--listen-client-urls"},
		{"nobody listens", Config{Endpoints: []string{"127.0.0.1:1"}}, "nothing is listening there", "etcdctl endpoint health"},
		{"no way", Config{Endpoints: []string{"255.255.255.255:1"}}, "there is no route to it", "ip route get 255.255.255.255"}, // the kernel knows none for a broadcast over TCP
		{"no such host", Config{Endpoints: []string{"http://etcd.invalid:2379"}}, "its name does not resolve", "getent hosts etcd.invalid"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			c := newClientOf(t, test.cfg)
			eventually(t, func() error {
				ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
				defer cancel()
				_, err := c.Ask(ctx, clientv3.OpGet("/prefixproxy/", clientv3.WithPrefix()))
				trouble, ok := errors.AsType[*Trouble](err)
				if !ok {
					return fmt.Errorf("got %v, want a trouble", err)
				}
				if !strings.Contains(trouble.What, test.what) || !strings.Contains(trouble.Hint, test.hint) {
					return fmt.Errorf("got %q\nwith the hint %q\nof %v\nwant %q\nwith the hint %q", trouble.What, trouble.Hint, trouble.Err, test.what, test.hint)
				}
				return nil
			})
		})
	}
}

// Whoever is told of a trouble can end it without a restart of the daemon: the
// authority, and the password, are those of the next connection.
func TestRotation(t *testing.T) {
	t.Parallel()
	old, young := newAuthority(t), newAuthority(t)
	tomorrow := time.Now().Add(24 * time.Hour)
	var trusted atomic.Pointer[authority]
	trusted.Store(&old)
	server := startTLS(t, young.sign(t, "127.0.0.1", tomorrow), nil)
	devetcdtest.EnableUsers(t, newClientOf(t, Config{
		Endpoints: []string{"https" + strings.TrimPrefix(server.Endpoint(), "http")},
		TLS:       func() (*tls.Config, error) { return &tls.Config{RootCAs: young.pool()}, nil },
	}).Client)
	var password atomic.Value
	password.Store("the old one")
	c := newClientOf(t, Config{
		Endpoints: []string{"https" + strings.TrimPrefix(server.Endpoint(), "http")},
		Username:  "prefixproxy", Password: func() (string, error) { return password.Load().(string), nil },
		TLS: func() (*tls.Config, error) { return &tls.Config{RootCAs: trusted.Load().pool()}, nil },
	})
	refused := func() string {
		t.Helper()
		_, err := c.Ask(t.Context(), clientv3.OpGet("/prefixproxy/x"))
		trouble, ok := errors.AsType[*Trouble](err)
		if !ok {
			t.Fatalf("got %v, want a trouble", err)
		}
		return trouble.Hint
	}
	if hint := refused(); !strings.Contains(hint, "etcd.tls.ca") {
		t.Errorf("of another authority: the hint is %q", hint)
	}
	trusted.Store(&young)
	hint := refused()
	for strings.Contains(hint, "etcd.tls.ca") { // until the next connection
		hint = refused()
	}
	if !strings.Contains(hint, "etcd.password_file") {
		t.Errorf("of another password: the hint is %q", hint)
	}
	password.Store("p")
	eventually(t, func() error {
		_, err := c.Ask(t.Context(), clientv3.OpGet("/prefixproxy/x"))
		return err
	})
}

// A member that is stopped takes connections, by its kernel, and says nothing: who comes
// to it first is with another after one try, and is told of it if there is none.
func TestMemberThatSaysNothing(t *testing.T) {
	t.Parallel()
	mute, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer mute.Close()
	muteURL := "http://" + mute.Addr().String()
	answers := devetcdtest.Start(t).Endpoint()
	eventually(t, func() error {
		c := newClientOf(t, Config{Endpoints: []string{muteURL, answers}})
		if slices.Reverse(c.connector.endpoints); c.connector.endpoints[0].String() != muteURL {
			slices.Reverse(c.connector.endpoints)
		}
		tries := 0
		err := c.Try(t.Context(), func(ctx context.Context) error {
			tries++
			_, err := c.Get(ctx, "anything")
			return err
		})
		if err != nil || tries > 2 {
			return fmt.Errorf("%d tries, %v; want 2 at most", tries, err)
		}
		return nil
	})

	c := newClientOf(t, Config{Endpoints: []string{muteURL}})
	eventually(t, func() error {
		ctx, cancel := context.WithTimeout(t.Context(), 4*readTime)
		defer cancel()
		_, err := c.Ask(ctx, clientv3.OpGet("anything"))
		trouble, _ := errors.AsType[*Trouble](err)
		if trouble == nil || trouble.What != "it does not answer" || trouble.Endpoint != muteURL {
			return fmt.Errorf("the trouble is %+v", trouble)
		}
		return nil
	})
}

// eventually tries what a machine may be too busy for, until it is so.
func eventually(t *testing.T, so func() error) {
	t.Helper()
	err := so()
	for end := time.Now().Add(time.Minute); err != nil && time.Now().Before(end); {
		err = so()
	}
	if err != nil {
		t.Error(err)
	}
}

// A name whose addresses are ever new ones, as in a cluster that is replaced all the time, costs no
// memory for those that are gone.
func TestAddressesThatAreGone(t *testing.T) {
	t.Parallel()
	c, err := newConnector([]string{"http://127.0.0.1:1", "http://[::1]:1"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 10 * maxKnown {
		gone := fmt.Sprintf("192.0.2.1:%d", i)
		c.turns++
		c.tried[gone] = c.turns
		c.failed(gone, errSilent)
		if _, err := c.resolve(t.Context(), c.endpoints[i%2]); err != nil {
			t.Fatal(err)
		}
	}
	failures, _ := c.why()
	if most := maxKnown + 4; len(c.tried) > most || len(failures) > most {
		t.Errorf("remembered: %d addresses and %d failures, want at most %d", len(c.tried), len(failures), most)
	}
	if last := failures[len(failures)-1].endpoint; last != fmt.Sprintf("192.0.2.1:%d", 10*maxKnown-1) {
		t.Errorf("the last failure is %s, want the newest", last)
	}
	if len(c.inTurn()) != 2 || c.tried[c.endpoints[0].String()] == 0 {
		t.Error("an endpoint is forgotten")
	}
}
