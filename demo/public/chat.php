<?php

declare(strict_types=1);

// The page asks here: by fetch with the conversation, by EventSource with a ticket from ask.php. PHP says who may ask
// what, and is done. Apache passes the browser's connection to handoffd, which streams the answer into it.

use Handoffd\Handoff;
use Handoffd\HandoffException;

require __DIR__ . '/../../php/handoff.php';
require __DIR__ . '/../site.php';

$user = require_user();
if ($_SERVER['REQUEST_METHOD'] === 'POST') {
    $question = read_question();
} else {
    $ticket = $_GET['ticket'] ?? '';
    $question = is_string($ticket) ? $_SESSION['tickets'][$ticket] ?? null : null;
    if ($question !== null) {
        unset($_SESSION['tickets'][$ticket]);
    }
    if ($question === null) {
        http_response_code(204); // the one status that tells EventSource to stay away
        exit;
    }
}

try {
    Handoff::stream($question + ['user_id' => $user, 'include' => ['usage']]); // and nobody comes back from here
} catch (HandoffException $mistake) {
    error_log($mistake->getMessage());
    fail(500, 'no_handoff', 'This site cannot hand over; its log says why.');
}
