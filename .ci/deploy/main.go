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
	for _, r := range resources.Resources() {
		text, err := r.AsYAML()
		if err != nil {
			return err
		}
		if err := decode(r.GetKind(), text); err != nil {
			return fmt.Errorf("%s %s: %w", r.GetKind(), r.GetName(), err)
		}
		fmt.Println(r.GetKind(), r.GetName())
	}
	if err := checkConfigs(filepath.Join(dir, "..")); err != nil {
		return err
	}
	text, err := os.ReadFile(filepath.Join(dir, "kubernetes", "application.yaml"))
	if err != nil {
		return err
	}
	if err := decode("Pod", text); err != nil {
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
	return nil
}

// checkConfigs holds the configurations that we ship against their schema.
func checkConfigs(root string) error {
	schema, err := jsonschema.NewCompiler().Compile(filepath.Join(root, "docs/config.schema.json"))
	if err != nil {
		return err
	}
	for _, name := range []string{"config.example.yaml", "deploy/kubernetes/config.yaml", "deploy/debian/debian/config.yaml"} {
		text, err := os.ReadFile(filepath.Join(root, name))
		if err != nil {
			return err
		}
		var config any
		if err := yaml.Unmarshal(text, &config); err != nil {
			return err
		}
		if err := schema.Validate(config); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		fmt.Println("configuration", name)
	}
	return nil
}

// decode reads text into the type of kind; a field that it lacks is an error.
func decode(kind string, text []byte) error {
	types := map[string]any{
		"Namespace": &corev1.Namespace{}, "ConfigMap": &corev1.ConfigMap{}, "Secret": &corev1.Secret{}, "Pod": &corev1.Pod{},
		"DaemonSet": &appsv1.DaemonSet{}, "PriorityClass": &schedulingv1.PriorityClass{},
	}
	object, ok := types[kind]
	if !ok {
		return fmt.Errorf("no type for it")
	}
	return yaml.UnmarshalStrict(text, object)
}
