package testbed

import (
	"encoding/json"
	"fmt"
	"io"
	"net/url"
	"os"

	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap"
)

// An etcdNodeSpec says what a member of a cluster is.
type etcdNodeSpec struct {
	Name, Dir    string
	Client, Peer string // URLs at which it listens
	Advertised   string // URL at which the other members reach it
	Cluster      string // all members: name=URL,…
	Joins        bool   // the cluster is there already
	BcryptCost   int    // of passwords; 0: etcd's default
	Network      string // the path of the network namespace in which it runs; "": the test's
}

// playEtcdNode is the process of a member.
func playEtcdNode(spec []byte) error {
	var s etcdNodeSpec
	if err := json.Unmarshal(spec, &s); err != nil {
		return fmt.Errorf("read what to be: %w", err)
	}
	cfg, err := s.config()
	if err != nil {
		return err
	}
	etcd, err := embed.StartEtcd(cfg)
	if err != nil {
		return fmt.Errorf("start member %s: %w", s.Name, err)
	}
	go func() {
		io.Copy(io.Discard, os.Stdin)
		os.Exit(0)
	}()
	return fmt.Errorf("member %s: %w", s.Name, <-etcd.Err())
}

func (s etcdNodeSpec) config() (*embed.Config, error) {
	cfg := embed.NewConfig()
	for _, at := range []struct {
		text string
		urls *[]url.URL
	}{{s.Client, &cfg.ListenClientUrls}, {s.Client, &cfg.AdvertiseClientUrls}, {s.Peer, &cfg.ListenPeerUrls}, {s.Advertised, &cfg.AdvertisePeerUrls}} {
		u, err := url.Parse(at.text)
		if err != nil {
			return nil, err
		}
		*at.urls = []url.URL{*u}
	}
	cfg.Name, cfg.Dir, cfg.InitialCluster = s.Name, s.Dir, s.Cluster
	cfg.ZapLoggerBuilder = embed.NewZapLoggerBuilder(zap.NewNop())
	cfg.UnsafeNoFsync = true // what it wrote outlives the process, as long as the machine lives
	cfg.EnableGRPCGateway = false
	cfg.QuotaBackendBytes = 256 << 20
	if s.Joins {
		cfg.ClusterState = embed.ClusterStateFlagExisting
	}
	if s.BcryptCost != 0 {
		cfg.BcryptCost = uint(s.BcryptCost)
	}
	return cfg, nil
}
