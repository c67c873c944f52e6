// Package etcd is a client for a cluster of which some members may be cut off, stopped, overloaded,
// or misconfigured: it goes on with another one, and tells people in words what is wrong. The
// files:
//
//	client.go   Client: one member at a time
//	connect.go  the connection to that member, and to the next
//	login.go    one login for a token
//	causes.go   what errors mean, and what a person can do
//
// It does not promise that a request which failed had no effect.
package etcd

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"

	"github.com/prefixproxy/prefixproxy/internal/retry"
)

// A Config says how etcd is reached.
type Config struct {
	// Endpoints are the members of the cluster, each as http://host:port, https://host:port
	// or host:port. Each address of a host with several is treated as a member of its own.
	Endpoints []string

	// Username is the etcd user; "" is none. Password is asked for at each login.
	Username string
	Password func() (string, error)

	// TLS is asked for at each connection to an https:// endpoint. nil stands for
	// the system's authorities, and no certificate of our own; ours is the first
	// of Certificates.
	TLS func() (*tls.Config, error)

	// Etcdctl is the command with which a person asks the same etcd, for hints: etcdctl with
	// its flags; default etcdctl, without any.
	Etcdctl string
}

// A Client is an etcd client that talks to one member at a time. Everything goes over one
// connection; when that fails, or the member can't answer, all of it moves on to the next address,
// the one tried longest ago. (clientv3 by itself picks a member for each request, so that a
// renewal and the read that belongs to it would meet a broken one now and again forever.)
//
// It logs in once for a token, and rereads password and certificates whenever they are needed. A
// request is tried once: the caller decides whether to try it again.
type Client struct {
	*clientv3.Client
	connector *connector
	login     *login
	etcdctl   string
}

// MaxAnswerBytes is the longest answer that is accepted: anybody who may write to etcd can make one
// as long as they like.
const MaxAnswerBytes = 4 << 20

// New returns a client that connects on demand; the caller closes it.
// Options come after its own.
func New(cfg Config, options ...grpc.DialOption) (*Client, error) {
	connector, err := newConnector(cfg.Endpoints, cfg.TLS)
	if err != nil {
		return nil, err
	}
	first := connector.endpoints[0]
	reconnect := backoff.DefaultConfig
	reconnect.BaseDelay, reconnect.MaxDelay = 100*time.Millisecond, 2*time.Second
	login := newLogin(cfg.Username, cfg.Password, connector)
	client, err := clientv3.New(clientv3.Config{
		Endpoints:            []string{"http://" + net.JoinHostPort(nameOf(first), first.Port())}, // a name for them all: connector knows where to go
		DialKeepAliveTime:    10 * time.Second,                                                    // gRPC takes no less
		DialKeepAliveTimeout: 3 * time.Second,
		MaxUnaryRetries:      1,
		MaxCallRecvMsgSize:   MaxAnswerBytes,
		Logger:               zap.NewNop(), // errors are returned
		DialOptions: append([]grpc.DialOption{
			grpc.WithContextDialer(connector.dial),
			grpc.WithTransportCredentials(connector.credentials()),
			grpc.WithConnectParams(grpc.ConnectParams{Backoff: reconnect, MinConnectTimeout: 10 * time.Second}),
			grpc.WithChainUnaryInterceptor(login.unary, connector.unary),
			grpc.WithChainStreamInterceptor(login.stream),
		}, options...),
	})
	if err != nil {
		return nil, fmt.Errorf("make an etcd client: %w", err)
	}
	login.auth, login.ctx = pb.NewAuthClient(client.ActiveConnection()), client.Ctx()
	return &Client{Client: client, connector: connector, login: login, etcdctl: cmp.Or(cfg.Etcdctl, "etcdctl")}, nil
}

// Failed takes note of the error of a request that began at begun, and returns it with its cause. It
// moves on to another member where that may help, unless the client has moved on since, or is logging
// in: etcd would have hashed the password for nothing.
func (c *Client) Failed(err error, begun time.Time) error {
	if err == nil || IsTooLong(err) {
		return err
	}
	trouble := c.Trouble(err)
	if !sameEverywhere(err) && !c.login.underWay() {
		c.connector.moveOn(begun)
	}
	return trouble
}

// Unreachable returns why there is no connection; nil while there is one, or while nobody
// knows yet.
func (c *Client) Unreachable() error {
	if failures, _ := c.connector.why(); len(failures) > 0 {
		return c.ofConnections(failures)
	}
	return nil
}

// Version returns the version of the member in use.
func (c *Client) Version(ctx context.Context) (string, error) {
	status, err := pb.NewMaintenanceClient(c.ActiveConnection()).Status(ctx, &pb.StatusRequest{})
	return status.GetVersion(), err
}

// readTime is the time-out of one attempt of Try.
const readTime = 1500 * time.Millisecond

// Try makes a request that may be made twice, until one member has answered or ctx
// has ended.
func (c *Client) Try(ctx context.Context, request func(context.Context) error) error {
	wait := retry.Backoff{Jitter: retry.Randomly}
	var last error // the first may only tell that a member was left
	for {
		begun := time.Now()
		trying, cancel := context.WithTimeout(ctx, readTime)
		err := request(trying)
		cancel()
		if err == nil {
			return nil
		}
		if ctx.Err() == nil || last == nil {
			last = c.Failed(err, begun)
		}
		if sameEverywhere(err) || IsTooLong(err) || !retry.Sleep(ctx, wait.Next()) {
			return last
		}
		unreachable, _ := c.connector.why()
		if t, ok := errors.AsType[*Trouble](last); ok && t.Person && (len(unreachable) > 0 || wait.Failures > 2*len(c.connector.endpoints)) {
			return last // no address takes us, and somebody must mend that
		}
	}
}

// Ask is Do, and tries until one member has answered.
func (c *Client) Ask(ctx context.Context, op clientv3.Op) (resp clientv3.OpResponse, err error) {
	err = c.Try(ctx, func(ctx context.Context) (err error) {
		resp, err = c.Do(ctx, op)
		return err
	})
	return resp, err
}
