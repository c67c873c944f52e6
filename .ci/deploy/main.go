// Deploy checks what is for other systems: that kustomize builds deploy/kubernetes, that
// all of it is what Kubernetes' own types have, strictly, that deploy/compose.yaml is one by the schema of
// Compose, and that our configurations are what docs/config.schema.json says. It is a module of its own, so that the program's has none
// of this.
//
//	cd .ci/deploy && go run . ../../deploy
package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/compose-spec/compose-go/v2/cli"
	"github.com/santhosh-tekuri/jsonschema/v6"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"
	"sigs.k8s.io/yaml"
)

func main() {
	if err := check(os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func check(dir string) error {
	resources, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(filesys.MakeFsOnDisk(), filepath.Join(dir, "kubernetes"))
	if err != nil {
		return err
	}
	there := map[string]any{}
	for _, r := range resources.Resources() {
		text, err := r.AsYAML()
		if err != nil {
			return err
		}
		name := r.GetKind() + " " + r.GetName()
		if there[name], err = decode(r.GetKind(), text); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		fmt.Println(name)
	}
	if err := complete(there); err != nil {
		return err
	}
	schema, err := jsonschema.NewCompiler().Compile(filepath.Join(dir, "../docs/config.schema.json"))
	if err != nil {
		return err
	}
	for _, name := range []string{"../config.example.yaml", "kubernetes/config.yaml", "debian/debian/config.yaml"} {
		text, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			return err
		}
		if err := validate(schema, name, text); err != nil {
			return err
		}
	}
	text, err := os.ReadFile(filepath.Join(dir, "kubernetes", "application.yaml"))
	if err != nil {
		return err
	}
	if _, err := decode("Pod", text); err != nil {
		return fmt.Errorf("application.yaml: %w", err)
	}
	options, err := cli.NewProjectOptions([]string{filepath.Join(dir, "compose.yaml")}, cli.WithName("prefixproxy"))
	if err != nil {
		return err
	}
	project, err := options.LoadProject(context.Background())
	if err != nil {
		return err
	}
	fmt.Println("compose", project.ServiceNames())
	return validate(schema, "compose.yaml", []byte(project.Configs["prefixproxy"].Content))
}

// validate holds a configuration against its schema.
func validate(schema *jsonschema.Schema, name string, text []byte) error {
	var config any
	if err := yaml.Unmarshal(text, &config); err != nil {
		return err
	}
	if err := schema.Validate(config); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	fmt.Println("configuration", name)
	return nil
}

// complete checks that what the DaemonSet names is there, by the names that kustomize makes:
// a change of the configuration makes another one, and so rolls the pods. It also checks that
// Carbon's queue outlives a pod, and that the namespace admits pods on the node's network.
func complete(there map[string]any) error {
	set, ok := there["DaemonSet prefixproxy"].(*appsv1.DaemonSet)
	if !ok {
		return fmt.Errorf("no DaemonSet prefixproxy")
	}
	pod := set.Spec.Template.Spec
	wanted := []string{"PriorityClass " + pod.PriorityClassName}
	onNode := map[string]bool{}
	for _, v := range pod.Volumes {
		switch {
		case v.ConfigMap != nil:
			wanted = append(wanted, "ConfigMap "+v.ConfigMap.Name)
		case v.Secret != nil:
			wanted = append(wanted, "Secret "+v.Secret.SecretName)
		case v.HostPath != nil:
			onNode[v.Name] = true
		}
	}
	if len(wanted) != 3 {
		return fmt.Errorf("the DaemonSet names %q, want a PriorityClass, a ConfigMap and a Secret", wanted)
	}
	for _, name := range wanted {
		if there[name] == nil {
			return fmt.Errorf("no %s, which the DaemonSet names", name)
		}
	}
	outlives := map[string]bool{}
	for _, m := range pod.Containers[0].VolumeMounts {
		outlives[m.MountPath] = onNode[m.Name]
	}
	for _, path := range []string{"/var/lib/prefixproxy", "/run/prefixproxy", "/run/prefixproxy-queue"} {
		if !outlives[path] {
			return fmt.Errorf("%s does not outlive the pod", path)
		}
	}
	ports := map[string]bool{}
	for _, p := range pod.Containers[0].Ports {
		ports[fmt.Sprint(p.ContainerPort, p.Protocol)] = true
	}
	for _, port := range []string{"8125UDP", "8125TCP", "2003TCP", "2003UDP", "8127TCP"} {
		if !ports[port] {
			return fmt.Errorf("the DaemonSet has no port %s", port)
		}
	}
	space, ok := there["Namespace prefixproxy"].(*corev1.Namespace)
	if !ok || space.Labels["pod-security.kubernetes.io/enforce"] != "privileged" {
		return fmt.Errorf("the namespace does not admit pods on the node's network")
	}
	return nil
}

// decode reads text into the type of kind; a field that it lacks is an error.
func decode(kind string, text []byte) (any, error) {
	types := map[string]any{
		"Namespace": &corev1.Namespace{}, "ConfigMap": &corev1.ConfigMap{}, "Secret": &corev1.Secret{}, "Pod": &corev1.Pod{},
		"DaemonSet": &appsv1.DaemonSet{}, "PriorityClass": &schedulingv1.PriorityClass{},
	}
	object, ok := types[kind]
	if !ok {
		return nil, fmt.Errorf("no type for it")
	}
	return object, yaml.UnmarshalStrict(text, object)
}
