# The CloudFormation templates of packaging/aws from Terraform: one stack each, so that what runs is what is tested there.
#   terraform init && terraform apply -var 'tag_values=["web", "db"]' -var 'accounts=["web/ec2-user", "db/ec2-user"]'
# Take what you need; `keep` and `push` start documents of `fleet`.

terraform {
  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = ">= 5.0"
    }
  }
}

variable "prefix" {
  description = "Where the list is in Parameter Store"
  type        = string
  default     = "/authorized-keys"
}

variable "tag_values" {
  description = "Instances whose tag Role has one of these are asked how they are, and told of a change"
  type        = list(string)
}

variable "topic_arn" {
  description = "The SNS topic that hears of alarms; empty for none"
  type        = string
  default     = ""
}

variable "accounts" {
  description = "What a key pair may open, as role/account"
  type        = list(string)
}

locals {
  templates = "${path.module}/../../aws"
}

resource "aws_cloudformation_stack" "role" {
  name          = "authorized-keys-role"
  template_body = file("${local.templates}/instance-role.yaml")
  capabilities  = ["CAPABILITY_IAM"]
  parameters = {
    Prefix = var.prefix
  }
}

resource "aws_cloudformation_stack" "fleet" {
  name          = "authorized-keys-fleet"
  template_body = file("${local.templates}/fleet.yaml")
}

resource "aws_cloudformation_stack" "keep" {
  name          = "authorized-keys-keep"
  template_body = file("${local.templates}/associations.yaml")
  parameters = {
    TagKey       = "Role"
    TagValues    = join(",", var.tag_values)
    DocumentName = aws_cloudformation_stack.fleet.outputs["DocumentName"]
    # To install it, too: "true", with From, SourceType and SumsSha256, or with a repository on each instance that has the package.
    Install = "false"
  }
}

resource "aws_cloudformation_stack" "push" {
  name          = "authorized-keys-push"
  template_body = file("${local.templates}/push.yaml")
  capabilities  = ["CAPABILITY_IAM"]
  parameters = {
    Prefix       = var.prefix
    TagKey       = "Role"
    TagValues    = join(",", var.tag_values)
    DocumentName = aws_cloudformation_stack.fleet.outputs["DocumentName"]
  }
}

resource "aws_cloudformation_stack" "key_pairs" {
  name          = "authorized-keys-key-pairs"
  template_body = file("${local.templates}/key-pairs.yaml")
  capabilities  = ["CAPABILITY_IAM"]
  parameters = {
    Prefix   = var.prefix
    Accounts = join(",", var.accounts)
  }
}

resource "aws_cloudformation_stack" "logs" {
  name          = "authorized-keys-logs"
  template_body = file("${local.templates}/cloudwatch.yaml")
  capabilities  = ["CAPABILITY_IAM"]
  parameters = {
    TopicArn            = var.topic_arn
    UndeliveredQueueUrl = aws_cloudformation_stack.push.outputs["UndeliveredQueueUrl"]
    KeyPairFunctionName = aws_cloudformation_stack.key_pairs.outputs["FunctionName"]
  }
}

output "instance_profile" {
  description = "For the instances' iam_instance_profile"
  value       = aws_cloudformation_stack.role.outputs["InstanceProfileName"]
}
