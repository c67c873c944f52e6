package etcd

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// This file alone knows what the errors of etcd, of gRPC and of TLS mean, and
// what a person can do about them.

// A Trouble is what is wrong between us and etcd, as people are told.
type Trouble struct {
	Endpoint string // that was asked; "" where none was
	What     string // the cause, in words that stay the same while it does
	Hint     string // what can be typed or set; "" where nothing helps
	Person   bool   // it takes a person; otherwise it may heal by itself
	Err      error  // that it came with
}

// Error says it all in one line.
func (t *Trouble) Error() string {
	at := ""
	if t.Endpoint != "" {
		at = " at " + t.Endpoint
	}
	return fmt.Sprintf("etcd%s: %s: %v", at, t.What, t.Err)
}

// Unwrap returns the underlying error.
func (t *Trouble) Unwrap() error { return t.Err }

// How a connection can end, apart from the system's errors.
var (
	errWantsTLS        = errors.New("the server answered in TLS")
	errNoEtcd          = errors.New("the server's answer is not HTTP/2")
	errSilent          = errors.New("the server accepted the connection and sent nothing")
	errClosedUnheard   = errors.New("the server closed the connection without sending anything")
	errClosedHandshake = errors.New("the server closed the connection during the TLS handshake")
)

// A filesError is an error with our own files.
type filesError struct{ error }

func (e *filesError) Unwrap() error { return e.error }

// etcdErrors are errors that etcd answers with.
var etcdErrors = []struct {
	err    error
	what   string
	hint   string // %s: etcdctl; %root: etcdctl as root
	same   bool   // every member would answer so
	person bool
}{
	{rpctypes.ErrAuthFailed, "wrong user name or password", "check etcd.username and etcd.password_file, which is read at each login; to try it: %s get --limit=1 --prefix /prefixproxy/", true, true},
	{rpctypes.ErrUserEmpty, "it requires a user, and none is configured", "set etcd.username and etcd.password_file", true, true},
	{rpctypes.ErrPermissionDenied, "the user has no role that allows it", "grant its role readwrite on the prefix /prefixproxy/: %root role grant-permission ROLE --prefix=true readwrite /prefixproxy/", true, true},
	{rpctypes.ErrNoSpace, "its database is full", "compact and defragment it, then: %s alarm disarm", true, true},
	{rpctypes.ErrTooManyOps, "it allows too few operations in a transaction", "set etcd's --max-txn-ops to 128 or more", true, true},
	{rpctypes.ErrRequestTooLarge, "it allows no request of this size", "set etcd's --max-request-bytes to 1572864, its default", true, true},
	{rpctypes.ErrCorrupt, "its data is corrupt", "%s alarm list", false, true},
	{rpctypes.Error(rpctypes.ErrGRPCNotSupportedForLearner), "the member is a learner, which answers nothing", "%s member list; promote it, or take it out of etcd.endpoints", false, true},
	{rpctypes.ErrNoLeader, "the member has no leader: it is cut off from the others, or too few of them run", "%s endpoint status -w table", false, false},
	{rpctypes.ErrTimeoutDueToLeaderFail, "the member lost its leader", "%s endpoint status -w table", false, false},
	{rpctypes.ErrTimeoutDueToConnectionLost, "the member lost the others", "%s endpoint status -w table", false, false},
	{rpctypes.ErrTimeout, "the member got no agreement of the others in time", "%s endpoint status -w table", false, false},
	{rpctypes.ErrLeaderChanged, "the leader has changed", "", false, false},
	{rpctypes.ErrNotLeader, "the leader has changed", "", false, false},
	{rpctypes.ErrStopped, "the member is stopping", "", false, false},
	{rpctypes.ErrTooManyRequests, "it is overloaded", "%s endpoint status -w table", false, false},
}

// sameEverywhere says whether another member would answer the same.
func sameEverywhere(err error) bool {
	for _, e := range etcdErrors {
		if errors.Is(err, e.err) {
			return e.same
		}
	}
	own, known := errors.AsType[rpctypes.EtcdError](err)
	return known && own.Code() != codes.Unavailable
}

// IsTooLong says whether an answer was longer than MaxAnswerBytes.
func IsTooLong(err error) bool {
	s, ok := status.FromError(err)
	return ok && s.Code() == codes.ResourceExhausted && strings.Contains(s.Message(), "larger than max")
}

// Trouble returns err, with which a request ended, as people are told.
func (c *Client) Trouble(err error) error {
	if t, ok := errors.AsType[*Trouble](err); ok {
		return t
	}
	failures, at := c.connector.why()
	for _, e := range etcdErrors {
		if errors.Is(err, e.err) {
			root := strings.ReplaceAll(c.etcdctl, " --user="+c.login.user, "") + " --user=root"
			return &Trouble{at, e.what, strings.NewReplacer("%s", c.etcdctl, "%root", root).Replace(e.hint), e.person, err}
		}
	}
	if files, ok := errors.AsType[*filesError](err); ok {
		return c.ofFiles(at, files)
	}
	if len(failures) > 0 {
		return c.ofConnections(failures)
	}
	health := c.etcdctl + " endpoint health"
	switch {
	case errors.Is(err, errLoggingIn) && c.connector.isHeard():
		return &Trouble{at, "the login has not finished yet", health, false, err}
	case errors.Is(err, context.DeadlineExceeded):
		return &Trouble{at, "no answer in time", health, false, err}
	}
	return &Trouble{at, "the request failed", health, false, err}
}

func (c *Client) ofFiles(at string, err error) *Trouble {
	return &Trouble{at, "our certificate or password files cannot be used", "prefixproxy check names the file", true, err}
}

// ofConnections returns the trouble that most addresses have; of several, one that takes a person,
// and the latest.
func (c *Client) ofConnections(failures []*connectError) (worst *Trouble) {
	have := make(map[string]int)
	most := 0
	for _, failure := range failures {
		t := c.ofConnection(failure)
		have[t.What]++
		if n := have[t.What]; worst == nil || n > most || n == most && (t.Person || !worst.Person) {
			worst, most = t, n
		}
	}
	return worst
}

// A connectionError is why a connection could not be made, or ended.
type connectionError struct {
	is     func(error) bool
	what   string
	hint   string // %s: etcdctl; %host; %certificate: how to look at the server's
	person bool
}

// connectionErrors are all of them: of several that hold, the first.
var connectionErrors = []connectionError{
	{as(func(e x509.CertificateInvalidError) bool {
		return e.Reason == x509.Expired && time.Now().Before(e.Cert.NotBefore)
	}), "its certificate is not valid yet", "look at both clocks (date); %certificate", true},
	{as(func(e x509.CertificateInvalidError) bool { return e.Reason == x509.Expired }), "its certificate has expired", "renew it on that member: %certificate", true},
	{as(func(x509.UnknownAuthorityError) bool { return true }), "its certificate is signed by an unknown authority", "set etcd.tls.ca to the file of the one that signed it: %certificate", true},
	{as(func(e x509.HostnameError) bool {
		return len(e.Certificate.DNSNames)+len(e.Certificate.IPAddresses) == 0
	}), "its certificate has its name only as Common Name", "have it signed again with its names as subjectAltName: %certificate", true},
	{as(func(x509.HostnameError) bool { return true }), "its certificate is for another name", "write one of its names in etcd.endpoints: %certificate", true},
	{as(func(x509.CertificateInvalidError) bool { return true }), "its certificate is not valid", "%certificate", true},
	{is(errWantsTLS), "it speaks https, and the endpoint is http://", "write https:// in etcd.endpoints", true},
	{is(errNoEtcd), "this is not etcd, or it is etcd's peer port", "etcd.endpoints needs the port of its --listen-client-urls, usually 2379", true},
	{as(func(tls.RecordHeaderError) bool { return true }), "it does not speak https, and the endpoint is https://", "write http:// in etcd.endpoints, and take out etcd.tls", true},
	{is(errClosedHandshake), "it closes every connection at once", "if that is a balancer, no etcd is behind it; if that etcd has no TLS, write http:// in etcd.endpoints, and take out etcd.tls", false},
	{as(func(e *net.OpError) bool { return e.Op == "remote error" }), "it refuses the TLS connection", "its --tls-min-version and --tls-max-version must include TLS 1.2 or 1.3", true},
	{as(func(*net.DNSError) bool { return true }), "its name does not resolve", "getent hosts %host", false},
	{is(syscall.ECONNREFUSED), "nothing is listening there", "%s endpoint health", false},
	{is(syscall.ENETUNREACH, syscall.EHOSTUNREACH), "there is no route to it", "ip route get %host", false},
	{is(errClosedUnheard), "it closes every connection at once", "if that is a balancer, no etcd is behind it; if it is the port of etcd's --listen-client-http-urls, write that of --listen-client-urls", false},
	{as(net.Error.Timeout), "it does not answer", "%s endpoint health", false},
	{is(context.DeadlineExceeded, errSilent), "it does not answer", "%s endpoint health", false},
	{func(error) bool { return true }, "the connection failed", "%s endpoint health", false},
}

// as says of an error whether it is a T of which ok holds.
func as[T error](ok func(T) bool) func(error) bool {
	return func(err error) bool {
		its, found := errors.AsType[T](err)
		return found && ok(its)
	}
}

// is says of an error whether it is one of several.
func is(targets ...error) func(error) bool {
	return func(err error) bool {
		return slices.ContainsFunc(targets, func(target error) bool { return errors.Is(err, target) })
	}
}

// ofConnection returns the trouble with a connection that could not be made.
func (c *Client) ofConnection(failure *connectError) *Trouble {
	at, err := failure.endpoint, failure.err
	if files, ok := errors.AsType[*filesError](err); ok {
		return c.ofFiles(at, files)
	}
	if refusesCertificate.MatchString(err.Error()) {
		what, hint := c.connector.refusedCertificate(err.Error())
		return &Trouble{at, what, hint, true, err}
	}
	address := strings.TrimSuffix(at[strings.LastIndexAny(at, "/(")+1:], ")")
	host := strings.Trim(address[:strings.LastIndex(address, ":")], "[]")
	certificate := "openssl s_client -connect " + address + " </dev/null | openssl x509 -noout -subject -issuer -dates -ext subjectAltName"
	i := slices.IndexFunc(connectionErrors, func(e connectionError) bool { return e.is(err) })
	e := connectionErrors[i]
	return &Trouble{at, e.what, strings.NewReplacer("%s", c.etcdctl, "%host", host, "%certificate", certificate).Replace(e.hint), e.person, err}
}

// refusesCertificate matches the alerts of a server that does not accept our certificate, or lacks
// it: below TLS 1.3, that is a handshake failure.
var refusesCertificate = regexp.MustCompile("remote error: tls: (.*certificate|handshake failure|access denied)")

// refusedCertificate says what is wrong with our own certificate, which a server
// has refused: old ones don't say it.
func (c *connector) refusedCertificate(alert string) (what, hint string) {
	own := c.ownCertificate()
	switch {
	case own == nil:
		return "it requires a client certificate, and none is configured", "set etcd.tls.cert and etcd.tls.key"
	case time.Now().After(own.NotAfter):
		return "our certificate has expired", fmt.Sprintf("renew the file of etcd.tls.cert, which is read at each connection: openssl x509 -noout -dates -in FILE (it ended %s)", own.NotAfter.UTC().Format(time.RFC3339))
	case strings.Contains(alert, "unknown certificate authority"):
		return "it does not trust the authority that signed our certificate", "etcd's --trusted-ca-file must hold the one that signed etcd.tls.cert: openssl x509 -noout -issuer -in FILE"
	}
	return "it refuses our certificate", "openssl x509 -noout -text -in FILE, the one of etcd.tls.cert: its issuer must be in etcd's --trusted-ca-file, and it must be for clients, and valid by etcd's clock"
}

// ownCertificate returns the certificate that we present; nil if there is none.
func (c *connector) ownCertificate() *x509.Certificate {
	if c.tls == nil {
		return nil
	}
	cfg, err := c.tls()
	if err != nil || len(cfg.Certificates) == 0 {
		return nil
	}
	cert, _ := x509.ParseCertificate(cfg.Certificates[0].Certificate[0])
	return cert
}

// isClosed says whether the peer has closed the connection, in whatever way.
func isClosed(err error) bool { return is(io.EOF, io.ErrUnexpectedEOF, syscall.ECONNRESET)(err) }
