// stargz ROOT SOCKET CONFIG: the lazily pulling snapshotter of Debian's golang-github-containerd-stargz-snapshotter-dev,
// served to containerd as containerd-stargz-grpc does, which Debian does not have. As there, CONFIG is a config.toml, and
// the logins are in $DOCKER_CONFIG/config.json, by the host and port that is asked.
package main

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"log"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"
	"github.com/containerd/containerd/contrib/snapshotservice"
	"github.com/containerd/containerd/reference"
	"github.com/containerd/stargz-snapshotter/service"
	"github.com/pelletier/go-toml"
	"google.golang.org/grpc"
)

func main() {
	if len(os.Args) != 4 {
		log.Fatal("usage: stargz ROOT SOCKET CONFIG")
	}
	root, socket := os.Args[1], os.Args[2]
	tree, err := toml.LoadFile(os.Args[3])
	if err != nil {
		log.Fatal(err)
	}
	var config service.Config
	if err := tree.Unmarshal(&config); err != nil {
		log.Fatal(err)
	}
	snapshotter, err := service.NewStargzSnapshotterService(
		context.Background(), root, &config, service.WithCredsFuncs(login))
	if err != nil {
		log.Fatal(err)
	}
	listener, err := net.Listen("unix", socket)
	if err != nil {
		log.Fatal(err)
	}
	server := grpc.NewServer()
	snapshotsapi.RegisterSnapshotsServer(server, snapshotservice.FromSnapshotter(snapshotter))
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, syscall.SIGINT)
	go func() {
		<-stop
		server.Stop()
	}()
	if err := server.Serve(listener); err != nil {
		log.Fatal(err)
	}
	// Unmounts what it serves.
	if err := snapshotter.Close(); err != nil {
		log.Fatal(err)
	}
}

// login is the user name and password for a host. containerd-stargz-grpc reads them by Docker's own package, which Debian
// does not have as a library.
func login(host string, _ reference.Spec) (string, string, error) {
	folder, isSet := os.LookupEnv("DOCKER_CONFIG")
	if !isSet {
		return "", "", nil
	}
	text, err := os.ReadFile(filepath.Join(folder, "config.json"))
	if err != nil {
		return "", "", err
	}
	var config struct {
		Auths map[string]struct{ Auth string }
	}
	if err := json.Unmarshal(text, &config); err != nil {
		return "", "", err
	}
	auth, err := base64.StdEncoding.DecodeString(config.Auths[host].Auth)
	if err != nil {
		return "", "", err
	}
	user, password, _ := strings.Cut(string(auth), ":")
	return user, password, nil
}
