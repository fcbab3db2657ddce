"""Reads and tries out what is deployed in AWS, for the tests: a JSON request a line on stdin, a JSON answer a line on stdout.

Each function below is a request: its name is `do`, its parameters are the other fields.
"""

import ast
import contextlib
import io
import json
import os
import re
import runpy
import sys


def template(path):
    """A CloudFormation template, tags such as !Sub in their long form."""
    from cfnlint.decode import cfn_yaml

    return cfn_yaml.load(path)


def component(path):
    """Plain YAML."""
    import yaml

    with open(path) as file:
        return yaml.safe_load(file)


def hcl(path):
    """What Packer and Terraform read."""
    import hcl2

    def plain(value):
        # The parser leaves quotes and heredoc marks on strings.
        if isinstance(value, dict):
            return {plain(key): plain(item) for key, item in value.items() if not key.startswith("__")}
        if isinstance(value, list):
            return [plain(item) for item in value]
        if isinstance(value, str):
            value = value.removeprefix('"').removesuffix('"')
            heredoc = re.fullmatch(r"<<-EOT\n(.*)\n *EOT", value, re.DOTALL)
            return heredoc[1] if heredoc else value
        return value

    with open(path) as file:
        return plain(hcl2.load(file))


def aws(service, operation, arguments):
    """An API call, where the environment says that AWS is."""
    import boto3

    answer = getattr(boto3.client(service), operation)(**arguments)
    answer.pop("ResponseMetadata", None)
    # moto gives an inline policy that a stack made as Python would print it.
    if isinstance(answer.get("PolicyDocument"), str):
        answer["PolicyDocument"] = ast.literal_eval(answer["PolicyDocument"])
    return answer


def managed_policy(name):
    """A policy that AWS manages."""
    from moto.iam.aws_managed_policies import aws_managed_policies_data

    return json.loads(aws_managed_policies_data)[name]["Document"]


def matches(pattern, events):
    """Which of the events the pattern of a rule matches."""
    from moto.events.models import EventPattern

    compiled = EventPattern.load(json.dumps(pattern))
    return [compiled.matches_event(event) for event in events]


def invalid(service, operation, arguments):
    """Why the service would not take these arguments, by its own model; empty when it would."""
    import boto3
    from botocore.validate import ParamValidator

    client = boto3.client(service, region_name="eu-central-1")
    shape = client.meta.service_model.operation_model(operation).input_shape
    return ParamValidator().validate(arguments, shape).generate_report()


def violations(schema, document):
    """What the document does that the JSON Schema forbids."""
    import jsonschema

    return [error.message for error in jsonschema.Draft7Validator(schema).iter_errors(document)]


def allowed(pattern, values):
    """Which of the values an allowedPattern lets through."""
    return [re.search(pattern, value) is not None for value in values]


def handle(path, environment, events):
    """Runs the code of a Lambda function with each event: what it printed, and the error it ended with."""
    said, error = io.StringIO(), None
    before = dict(os.environ)
    os.environ.update(environment)
    with contextlib.redirect_stdout(said):
        # As Lambda does: the module once, then the handler for each event.
        handler = runpy.run_path(path)["handler"]
        for event in events:
            try:
                handler(event, None)
            except Exception as raised:
                error = f"{type(raised).__name__}: {raised}"
    os.environ.clear()
    os.environ.update(before)
    return {"said": said.getvalue(), "error": error}


for line in sys.stdin:
    request = json.loads(line)
    print(json.dumps(globals()[request.pop("do")](**request), default=str), flush=True)
